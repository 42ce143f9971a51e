"""Guesses of how an answer goes on: where its last tokens stood before, the same tokens followed (prompt lookup).

Agents repeat what they have read: files they edit, names, the frames of tool calls. A guess costs nothing to make, and
computing several tokens at once may cost little more than one, so guesses are computed along with what is known and
kept as far as the answer really went that way (Saxena, "Prompt Lookup Decoding", 2023; for any draft: Leviathan et al.,
"Fast Inference from Transformers via Speculative Decoding", 2023). Whether that pays is the scheduler's to decide: it
knows what a step costs, and from here how likely each guessed token is.

*Finding.* A table from each three tokens to the place behind their latest occurrence, as LZ4 has it; what the table
says is checked, so two that share an entry do no harm. Once a place is found, the guess follows it until it is wrong.
Then the answer has most likely changed a few tokens of what it copies, and goes on close by: so the neighbourhood is
searched first, for two tokens.

*Likelihood.* The longer the match, the surer the guess. How sure is learnt from every token of the answer, also while
no guess is computed: so a bad time costs nothing, and a good one is noticed.

Pure: tokens in, tokens out.
"""

import numpy as np

__all__ = ["MOST", "PromptLookup"]

MOST = 62
"""Tokens of a guess. Many: there are machines where only large steps are cheap."""
LEAST_LIKELY = 0.2
"""A guess ends where it is less likely than this that all of it is right."""

GRAM = 3
FACTORS = (1_000_003, 998_244_353, 19_260_817)
LEAST_ENTRIES = 1 << 14
# Where copying goes on after a change: so many tokens before the place where it broke off, and behind it; and for so
# many tokens of the answer this is where it is looked for.
BEFORE, BEHIND = 16, 64
PATIENCE = 64

# By the length of the match, doubled each time from 1 token: the likelihood of the next one, before anything is known;
# and how much each token counts.
LIKELY = (0.3, 0.4, 0.6, 0.8, 0.9, 0.95, 0.98)
LATEST = 0.06


class PromptLookup:
    """Guesses the next of ``tokens``, a list that grows at its end while this looks on."""

    def __init__(self, tokens: list[int]) -> None:
        self._tokens = tokens
        self._likely = list(LIKELY)
        self._place = 0
        """Of the token that is guessed to come next; 0: there is no guess."""
        self._matched = 0
        """Tokens before that place that stand at the end as well, as far as that is worth knowing."""
        self._broken_at = 0
        self._patience = 0
        self._places = np.zeros(max(LEAST_ENTRIES, 2 * len(tokens)) + 1, np.int32)
        self._read = len(tokens)
        known = np.array(tokens, np.int64)
        if len(known) >= GRAM:
            count = len(known) - GRAM + 1
            one, two, three = (known[at : at + count] * factor for at, factor in enumerate(FACTORS))
            entries = (one + two + three) % len(self._places)
            # Of several places for one entry the last one stays. What ends the text has nothing behind it.
            self._places[entries[:-1]] = np.arange(GRAM, len(known))
            self._find()
            self._remember()

    def guess(self) -> tuple[list[int], list[float]]:
        """The tokens that may come next, and for each how likely it is that all up to it are right; often none."""
        while self._read < len(self._tokens):
            self._take(self._tokens[self._read])
        if not self._place:
            return [], []
        likelihoods: list[float] = []
        likely, matched = 1.0, self._matched
        while len(likelihoods) < MOST:
            likely *= self._likely[_rank(matched)]
            if likely < LEAST_LIKELY:
                break
            likelihoods.append(likely)
            matched += 1
        tokens = self._tokens[self._place : self._place + len(likelihoods)]
        while tokens and len(tokens) < len(likelihoods):  # a text that repeats itself goes on to do so
            tokens += tokens[: len(likelihoods) - len(tokens)]
        return tokens, likelihoods

    def _take(self, token: int) -> None:
        """Compare the next token with the guess."""
        self._read += 1
        if self._place:
            right = self._tokens[self._place] == token
            rank = _rank(self._matched)
            self._likely[rank] += LATEST * (right - self._likely[rank])
            if right:
                self._place += 1
                self._matched += 1
            else:
                self._broken_at, self._patience = self._place, PATIENCE
                self._place = 0
        if not self._place:
            self._find()
        self._remember()

    def _find(self) -> None:
        """Look for where the last tokens stood before."""
        end = self._read
        if end < GRAM:
            return
        near = self._near() if self._patience else 0
        place = int(self._places[self._entry()])
        found = max((near, place), key=self._match)
        if (matched := self._match(found)) >= (GRAM if found != near else GRAM - 1):
            self._place, self._matched, self._patience = found, matched, 0

    def _near(self) -> int:
        """The first place around the break where the last two tokens stand; 0: there is none."""
        self._patience -= 1
        tokens, end = self._tokens, self._read
        one, two = tokens[end - 2], tokens[end - 1]
        for place in range(max(1, self._broken_at - BEFORE), min(self._broken_at + BEHIND, end - 1)):
            if tokens[place] == two and tokens[place - 1] == one:
                return place + 1
        return 0

    def _match(self, place: int) -> int:
        """How many tokens before a place stand at the end as well."""
        tokens, end, most = self._tokens, self._read, min(place, 1 << len(LIKELY))
        matched = 0
        while matched < most and tokens[place - 1 - matched] == tokens[end - 1 - matched]:
            matched += 1
        return matched

    def _remember(self) -> None:
        if self._read >= GRAM:
            self._places[self._entry()] = self._read

    def _entry(self) -> int:
        end = self._read
        last = self._tokens[end - GRAM : end]
        return sum(token * factor for token, factor in zip(last, FACTORS, strict=True)) % len(self._places)


def _rank(matched: int) -> int:
    return min(matched.bit_length(), len(LIKELY)) - 1
