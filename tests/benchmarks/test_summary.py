"""README's figures of continual learning are read from the stream that they name."""

import math

from summary import average_accuracy, average_perplexity, kept_bits


def line(sequence: str, method: str, average: float, unchanged: str, way: str = "no task given"):
    return {
        "sequence": sequence,
        "method": method,
        "way": way,
        "average": average,
        "unchanged": unchanged,
    }


RESULTS = {
    "lines": [
        line("classes", "niwfctl", 0.75, "2 of 4"),
        line("classes", "ewc", 0.5, "0 of 4"),
        line("five", "niwfctl", -math.log(7), "4 of 4", "task given"),
        line("five", "niwfctl", -math.log(8), "3 of 4"),
        line("five", "lora", -math.log(4), "0 of 4"),
        line("five", "lora", -math.log(9), "1 of 4"),
        line("two", "niwfctl", -math.log(2), "1 of 1"),
    ]
}


def test_perplexities_are_those_of_five_tasks_and_the_geometric_mean_of_seeds() -> None:
    assert average_perplexity(RESULTS) == "niwfctl 8.00, one LoRA 6.00 (2 seeds)"


def test_accuracies_are_those_of_classes() -> None:
    assert average_accuracy(RESULTS) == "niwfctl 0.750, EWC on LoRA 0.500"


def test_kept_bits_are_those_of_five_tasks_and_all_seeds() -> None:
    assert kept_bits(RESULTS) == (
        "niwfctl told the task 4 of 4; not told: niwfctl 3 of 4, one LoRA 1 of 8"
    )


def test_streams_that_were_not_run_give_no_figures() -> None:
    shorter = {"lines": [line("two", "niwfctl", -1.0, "1 of 1")]}
    assert not any(read(shorter) for read in (average_perplexity, average_accuracy, kept_bits))
