"""The Llama architecture in numpy, float32 throughout, keys and values kept in float32: what sphericald's answers are compared with.

    model = LlamaForward(Gguf("model.gguf"))
    logits = model.logits(token_ids)              # float32 [positions, vocabulary], teacher-forced
    model.begin(); row = model.extend(token_ids)  # the last position's logits; keeps keys and values for the next call
"""
import numpy as np


class LlamaForward:
    def __init__(self, file):
        meta = file.metadata
        if meta["general.architecture"] != "llama":
            raise ValueError(f"architecture {meta['general.architecture']}: the reference knows llama only")
        self.layers = meta["llama.block_count"]
        self.heads = meta["llama.attention.head_count"]
        self.kv_heads = meta.get("llama.attention.head_count_kv", self.heads)
        self.epsilon = np.float32(meta["llama.attention.layer_norm_rms_epsilon"])
        self.head_dim = meta.get("llama.attention.key_length", meta["llama.embedding_length"] // self.heads)
        rotary_dim = meta.get("llama.rope.dimension_count", self.head_dim)
        base = meta.get("llama.rope.freq_base", 10000.0)
        self.frequency = base ** (-np.arange(0, rotary_dim, 2, dtype=np.float64) / rotary_dim)
        self.embedding = file.tensor("token_embd.weight")
        self.final_norm = file.tensor("output_norm.weight")
        output = file.tensor("output.weight")
        self.output = self.embedding if output is None else output
        names = ["attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down"]
        self.weights = [{n: file.tensor(f"blk.{i}.{n}.weight") for n in names} for i in range(self.layers)]
        self.begin()

    def begin(self):
        """Forgets the sequence."""
        empty = np.empty((self.kv_heads, 0, self.head_dim), np.float32)
        self.keys = [empty] * self.layers
        self.values = [empty] * self.layers

    def logits(self, token_ids):
        """Logits after each of the tokens, from an empty sequence.   float32 [positions, vocabulary]"""
        self.begin()
        return self._hidden(token_ids) @ self.output.T

    def extend(self, token_ids):
        """Appends tokens to the sequence; logits after the last.   float32 [vocabulary]"""
        return self._hidden(token_ids)[-1] @ self.output.T

    def _hidden(self, token_ids):
        x = self.embedding[np.asarray(token_ids)]
        first = self.keys[0].shape[1]
        angles = np.arange(first, first + len(x), dtype=np.float64)[:, None] * self.frequency
        turn = (np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))  # [positions, rotary_dim / 2]
        for i, w in enumerate(self.weights):
            h = self._norm(x, w["attn_norm"])
            q = self._rotate(self._split(h @ w["attn_q"].T, self.heads), turn)
            k = self._rotate(self._split(h @ w["attn_k"].T, self.kv_heads), turn)
            v = self._split(h @ w["attn_v"].T, self.kv_heads)
            self.keys[i] = np.concatenate([self.keys[i], k], axis=1)
            self.values[i] = np.concatenate([self.values[i], v], axis=1)
            x = x + self._attend(q, self.keys[i], self.values[i], first) @ w["attn_output"].T
            h = self._norm(x, w["ffn_norm"])
            gate = h @ w["ffn_gate"].T
            x = x + (gate / (1 + np.exp(-gate)) * (h @ w["ffn_up"].T)) @ w["ffn_down"].T
        return self._norm(x, self.final_norm)

    def _norm(self, x, weight):
        return x / np.sqrt(np.mean(x * x, axis=1, keepdims=True) + self.epsilon) * weight

    def _split(self, rows, heads):
        """[positions, heads * head_dim] -> [heads, positions, head_dim]"""
        return np.ascontiguousarray(rows.reshape(len(rows), heads, -1).transpose(1, 0, 2))

    def _rotate(self, x, turn):
        """GGUF stores llama's rotary coordinates as neighbours: (x0, x1), (x2, x3), ..."""
        cos, sin = turn
        half = cos.shape[1]
        pairs = x[..., :2 * half].reshape(*x.shape[:2], half, 2)
        even, odd = pairs[..., 0], pairs[..., 1]
        turned = np.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
        return np.concatenate([turned.reshape(*x.shape[:2], 2 * half), x[..., 2 * half:]], axis=2)

    def _attend(self, q, keys, values, first):
        """q [heads, rows, head_dim]; row r is at position first + r and sees the keys up to its own."""
        rows, group = q.shape[1], self.heads // self.kv_heads
        hidden = np.arange(keys.shape[1]) > first + np.arange(rows)[:, None]
        out = np.empty_like(q)
        for head in range(self.heads):
            score = q[head] @ keys[head // group].T / np.float32(np.sqrt(self.head_dim))
            score[hidden] = -np.inf
            p = np.exp(score - score.max(axis=1, keepdims=True))
            out[head] = p / p.sum(axis=1, keepdims=True) @ values[head // group]
        return out.transpose(1, 0, 2).reshape(rows, -1)


def log_softmax(logits):
    """In double precision, along the last axis."""
    x = logits.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
