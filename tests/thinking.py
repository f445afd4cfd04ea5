"""Chat templates in the manner of models that think, for tiny tokenizers."""

from tiny import tiny_tokenizer
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

# Like Qwen3's: thoughts of earlier questions are dropped, an answer without any gets an empty
# block, and `enable_thinking=false` makes that block part of the prompt.
AT_WILL = (
    "{% set asked = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set asked.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' %}{% set thought = m.reasoning_content or '' %}"
    "{% set said = m.content %}{% if '</think>' in said %}"
    "{% set thought = said.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set said = said.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% if loop.index0 > asked.last %}{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}"
    "{{ said }}{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
# Like that of DeepSeek-R1-Distill: the prompt opens a block of thoughts, and turns that were
# answered keep neither the block nor a `reasoning_content`.
ALWAYS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ '<｜Assistant｜>' + m.content.split('</think>')[-1] + eos_token }}"
    "{% else %}{{ '<｜User｜>' + m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜>' + '<think>\n' }}{% endif %}"
)


def thinking_tokenizer(template: str) -> PreTrainedTokenizerFast:
    """The tiny one, with marks of turns and of thoughts as tokens of their own."""
    tokenizer = tiny_tokenizer()
    marks = ["<|im_start|>", "<|im_end|>", "<｜User｜>", "<｜Assistant｜>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    plain = [AddedToken(tag, special=False, normalized=False) for tag in ("<think>", "</think>")]
    tokenizer.add_tokens(plain)
    tokenizer.chat_template = template
    return tokenizer
