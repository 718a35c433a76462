"""Llama and Gemma 3 in numpy, float32 throughout, keys and values kept in float32: what sphericald's answers are compared with.

    model = ReferenceForward(Gguf("model.gguf"))
    logits = model.logits(token_ids)              # float32 [positions, vocabulary], teacher-forced
    model.begin(); row = model.extend(token_ids)  # the last position's logits; keeps keys and values for the next call
"""
import numpy as np


# Gemma 3's report: five local layers to a global one, and the local ones' rotary base. Neither is in a GGUF file.
GEMMA_GLOBAL_EVERY = 6
GEMMA_LOCAL_BASE = 10000.0


class ReferenceForward:
    def __init__(self, file):
        family = file.metadata["general.architecture"]
        if family not in ("llama", "gemma3"):
            raise ValueError(f"architecture {family}: the reference knows llama and gemma3 only")
        self.gemma = family == "gemma3"
        meta = {key.removeprefix(family + "."): value for key, value in file.metadata.items()}
        self.layers = meta["block_count"]
        self.heads = meta["attention.head_count"]
        self.kv_heads = meta.get("attention.head_count_kv", self.heads)
        self.epsilon = np.float32(meta["attention.layer_norm_rms_epsilon"])
        self.head_dim = meta.get("attention.key_length", meta["embedding_length"] // self.heads)
        rotary_dim = meta.get("rope.dimension_count", self.head_dim)

        def frequency(base):
            return base ** (-np.arange(0, rotary_dim, 2, dtype=np.float64) / rotary_dim)

        everywhere = frequency(meta.get("rope.freq_base", 1e6 if self.gemma else 10000.0))
        self.windows = [0] * self.layers  # how many of the newest positions a query sees; 0: all
        self.frequencies = [everywhere] * self.layers
        if self.gemma:
            for i in range(self.layers):
                if (i + 1) % GEMMA_GLOBAL_EVERY != 0:
                    self.windows[i] = meta["attention.sliding_window"]
                    self.frequencies[i] = frequency(GEMMA_LOCAL_BASE)
        self.embedding = file.tensor("token_embd.weight")
        self.embedding_scale = np.float32(np.sqrt(self.embedding.shape[1]) if self.gemma else 1)
        self.final_norm = file.tensor("output_norm.weight")
        output = file.tensor("output.weight")
        self.output = self.embedding if output is None else output
        names = ["attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down"]
        names += ["attn_q_norm", "attn_k_norm", "post_attention_norm", "post_ffw_norm"] if self.gemma else []
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
        x = self.embedding[np.asarray(token_ids)] * self.embedding_scale
        first = self.keys[0].shape[1]
        for i, w in enumerate(self.weights):
            angles = np.arange(first, first + len(x), dtype=np.float64)[:, None] * self.frequencies[i]
            turn = (np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))  # [positions, rotary_dim / 2]
            h = self._norm(x, w["attn_norm"])
            q = self._split(h @ w["attn_q"].T, self.heads)
            k = self._split(h @ w["attn_k"].T, self.kv_heads)
            v = self._split(h @ w["attn_v"].T, self.kv_heads)
            if self.gemma:
                q, k = self._norm(q, w["attn_q_norm"]), self._norm(k, w["attn_k_norm"])
            self.keys[i] = np.concatenate([self.keys[i], self._rotate(k, turn)], axis=1)
            self.values[i] = np.concatenate([self.values[i], v], axis=1)
            attended = self._attend(self._rotate(q, turn), i, first) @ w["attn_output"].T
            x = x + (self._norm(attended, w["post_attention_norm"]) if self.gemma else attended)
            h = self._norm(x, w["ffn_norm"])
            fed = (self._activate(h @ w["ffn_gate"].T) * (h @ w["ffn_up"].T)) @ w["ffn_down"].T
            x = x + (self._norm(fed, w["post_ffw_norm"]) if self.gemma else fed)
        return self._norm(x, self.final_norm)

    def _activate(self, gate):
        if self.gemma:  # GELU by its tanh approximation, Hendrycks and Gimpel 2016
            return gate / 2 * (1 + np.tanh(np.float32(np.sqrt(2 / np.pi)) * (gate + np.float32(0.044715) * gate ** 3)))
        return gate / (1 + np.exp(-gate))

    def _norm(self, x, weight):
        return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self.epsilon) * weight

    def _split(self, rows, heads):
        """[positions, heads * head_dim] -> [heads, positions, head_dim]"""
        return np.ascontiguousarray(rows.reshape(len(rows), heads, -1).transpose(1, 0, 2))

    def _rotate(self, x, turn):
        """GGUF stores llama's rotary coordinates as neighbours: (x0, x1), (x2, x3), ... and Gemma's as halves: (x0, x[half]), ..."""
        cos, sin = turn
        half = cos.shape[1]
        if self.gemma:
            low, high = x[..., :half], x[..., half:2 * half]
            return np.concatenate([low * cos - high * sin, low * sin + high * cos, x[..., 2 * half:]], axis=2)
        pairs = x[..., :2 * half].reshape(*x.shape[:2], half, 2)
        even, odd = pairs[..., 0], pairs[..., 1]
        turned = np.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
        return np.concatenate([turned.reshape(*x.shape[:2], 2 * half), x[..., 2 * half:]], axis=2)

    def _attend(self, q, layer, first):
        """q [heads, rows, head_dim]; row r is at position first + r and sees the keys up to its own, in the layer's window."""
        keys, values, window = self.keys[layer], self.values[layer], self.windows[layer]
        rows, group = q.shape[1], self.heads // self.kv_heads
        at, position = np.arange(keys.shape[1]), first + np.arange(rows)[:, None]
        hidden = (at > position) | ((at <= position - window) if window else False)
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
