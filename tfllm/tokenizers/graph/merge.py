"""The merging of byte-pair encoding inside a TensorFlow graph, many words at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfllm.tokenizers.graph.constant import constant
from tfllm.tokenizers.graph.shift import shifted

# The rank of a pair that does not merge.
NEVER = np.iinfo(np.int32).max


class GraphMerge(tf.Module):
    """Merges tokens into longer ones.

    Byte-pair encoding merges, in each word, the pair of lowest rank, and of equal ones the leftmost, until no
    pair has a rank. One round here merges in all words every pair that has the lowest rank of its word, which
    comes to the same as long as every merge ranks behind the merges that make its parts. Training always
    gives such an order; where a file has another one, a round merges one pair a word, which is slower and
    exact for any order.

    In words longer than the longest token a pair may also merge ahead of the lowest rank of its word: if no
    pair ranks lower within the length of the longest token on either side, then no token that such a pair
    goes into can reach it. That makes the number of rounds independent of the length of a word.

    Args:
        merges: (left id, right id, result id), the first to be merged first.
        token_lengths: int32 [V], of how many tokens each is made at most.
    """

    def __init__(self, merges: Sequence[tuple[int, int, int]], token_lengths: np.ndarray):
        super().__init__(name="merge")
        self._num_ids = len(token_lengths)
        # The library keeps the last rank of a pair that occurs twice; so does a dict.
        rank_of = {(left, right): rank for rank, (left, right, _) in enumerate(merges)}
        table = np.array(
            [(left * self._num_ids + right, rank) for (left, right), rank in rank_of.items()], np.int64
        ).reshape(-1, 2)
        table = table[np.argsort(table[:, 0])]
        results = np.array([result for _, _, result in merges], np.int32)
        self._num_merges = len(merges)
        self._ordered = _well_ordered(rank_of, merges)
        self._reach = int(token_lengths[results].max()) if len(results) else 0
        self._pair_keys = constant(table[:, 0])  # int64 [M], ascending
        self._pair_ranks = constant(table[:, 1].astype(np.int32))  # int32 [M]
        self._results = constant(results)  # int32, by rank

    def __call__(self, tokens: tf.Tensor, words: tf.Tensor, num_words: tf.Tensor) -> tf.RaggedTensor:
        """Merge words.

        Args:
            tokens: int32 [N], the tokens of all words, such as their bytes.
            words: int32 [N], the word each stands in, ascending.
            num_words: int64, how many there are.

        Returns:
            int32 [W, None], the ids of each word.
        """
        if self._num_merges:
            ranks = self._ranks(tokens, words, tf.range(tf.size(tokens)))
            lengths = tf.math.segment_sum(tf.ones_like(words), words)
            any_long = tf.reduce_max(tf.concat([[0], lengths], 0)) > self._reach
            tokens, words, _ = tf.while_loop(
                lambda tokens, words, ranks: tf.reduce_any(ranks != NEVER),
                lambda tokens, words, ranks: self._round(tokens, words, ranks, any_long),
                [tokens, words, ranks],
                shape_invariants=[tf.TensorShape([None])] * 3,
            )
        return tf.RaggedTensor.from_value_rowids(tokens, tf.cast(words, tf.int64), num_words, validate=False)

    def _round(self, tokens, words, ranks, any_long):
        """Merge the chosen pairs; `ranks[i]` is the rank of the pair (i, i + 1)."""
        merged = self._chosen(words, ranks, any_long)  # [N], true at the left of a pair
        tokens = tf.where(merged, tf.gather(self._results, tf.where(merged, ranks, 0)), tokens)
        stays = tf.where(~shifted(merged, 1, False))[:, 0]
        tokens, words, ranks, merged = (tf.gather(x, stays) for x in (tokens, words, ranks, merged))
        # Only pairs with a new token need another look into the table.
        changed = tf.where(merged | shifted(merged, -1, False))
        fresh = self._ranks(tokens, words, tf.cast(changed[:, 0], tf.int32))
        return tokens, words, tf.tensor_scatter_nd_update(ranks, changed, fresh)

    def _ranks(self, tokens, words, at):
        """Return int32 [K]: the ranks of the pairs (i, i + 1) for i in `at`, NEVER where i ends its word."""
        right = tf.minimum(at + 1, tf.size(tokens) - 1)
        one_word = (at != right) & (tf.gather(words, at) == tf.gather(words, right))
        left_ids, right_ids = (tf.cast(tf.gather(tokens, i), tf.int64) for i in (at, right))
        key = left_ids * self._num_ids + right_ids
        found = tf.minimum(tf.searchsorted(self._pair_keys, key), self._pair_keys.shape[0] - 1)
        known = one_word & (tf.gather(self._pair_keys, found) == key)
        return tf.where(known, tf.gather(self._pair_ranks, found), NEVER)

    def _chosen(self, words, ranks, any_long):
        """Return bool [N]: the pairs to merge in this round, no two of which share a token."""
        lowest = (ranks != NEVER) & (ranks == tf.gather(tf.math.segment_min(ranks, words), words))
        index = tf.range(tf.size(ranks))
        if not self._ordered:
            first = tf.math.segment_min(tf.where(lowest, index, NEVER), words)
            return index == tf.gather(first, words)
        lowest = tf.cond(any_long, lambda: lowest | self._lowest_in_reach(ranks), lambda: lowest)
        # In a run of pairs of one rank, such as the three in "aaaa", every other one merges, from the left.
        run_starts = lowest & ~shifted(lowest, 1, False)
        run_first = tf.boolean_mask(index, run_starts)
        run = tf.maximum(tf.cumsum(tf.cast(run_starts, tf.int32)) - 1, 0)
        return lowest & ((index - tf.gather(run_first, run)) % 2 == 0)

    def _lowest_in_reach(self, ranks):
        """Return bool [N]: pairs with no lower rank in reach, in runs of equal rank that are all so."""
        # Padded, so that the first pairs have a left side too.
        window = tf.concat([tf.fill([self._reach], NEVER), ranks], 0)
        covered = 1
        while (
            covered < self._reach + 1
        ):  # doubling: `window[i]` becomes the minimum of `covered` entries from i on
            step = min(covered, self._reach + 1 - covered)
            window = tf.minimum(window, shifted(window, -step, NEVER))
            covered += step
        # The minimum to the left, up to the pair itself, and the one from it to the right.
        around = tf.minimum(window[: tf.size(ranks)], window[self._reach :])
        lowest = (ranks != NEVER) & (ranks == around)
        run = tf.cumsum(tf.cast(ranks != shifted(ranks, 1, NEVER), tf.int32))
        whole = tf.math.segment_min(tf.cast(lowest, tf.int32), run)
        return tf.gather(whole, run) == 1


def _well_ordered(rank_of: dict[tuple[int, int], int], merges: Sequence[tuple[int, int, int]]) -> bool:
    """Whether every merge ranks behind all merges that make one of its parts."""
    made_last: dict[int, int] = {}
    for rank in rank_of.values():
        result = merges[rank][2]
        made_last[result] = max(rank, made_last.get(result, -1))
    return all(made_last.get(part, -1) < rank for pair, rank in rank_of.items() for part in pair)
