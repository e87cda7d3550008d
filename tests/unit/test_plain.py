"""Words for a shell, as the commands print them."""

import subprocess

from busworker.plain import escaped, shell_word


def test_a_shell_reads_the_word_it_was_told_and_a_terminal_is_not_driven() -> None:
    texts = ["m1", "two words", "it's", "-x", "$HOME `id` \\n", "a\\b'c\x1b[31m\n\t9", "é\x9b1\u202e2\ufeff", ""]
    words = list(map(shell_word, texts))
    assert words == list(map(escaped, words))
    script = f"printf '%s\\0' {' '.join(words)}"
    done = subprocess.run(["bash", "-c", script], env={"LC_ALL": "C.UTF-8"}, capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == texts
