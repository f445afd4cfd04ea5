// Perplexity of answers in llama.cpp. Reads {model, lora, rows: [{prompt, answer}]} with token ids
// from standard input, and writes {perplexity}.

import fs from "node:fs";
import {getLlama} from "node-llama-cpp";

const {model: file, lora, rows} = JSON.parse(fs.readFileSync(0, "utf8"));
const longest = Math.max(...rows.map(({prompt, answer}) => prompt.length + answer.length));
const llama = await getLlama({gpu: false, build: "never", logLevel: "error"});
const model = await llama.loadModel({modelPath: file});
const threads = Number(process.env.OMP_NUM_THREADS) || undefined; // those of PyTorch
const context = await model.createContext({
    contextSize: longest + 1,
    lora: lora ?? undefined,
    threads,
});
const sequence = context.getSequence();

let loss = 0;
let count = 0;
for (const {prompt, answer} of rows) {
    await sequence.clearHistory();
    const input = [...prompt, ...answer]
        .slice(0, -1)
        .map((token, place) =>
            place < prompt.length - 1 ? token : [token, {generateNext: {probabilities: true}}],
        );
    const output = await sequence.controlledEvaluate(input);
    answer.forEach((token, place) => {
        loss -= Math.log(output[prompt.length - 1 + place].next.probabilities.get(token));
        count += 1;
    });
}
process.stdout.write(JSON.stringify({perplexity: Math.exp(loss / count)}));
process.exit(0);
