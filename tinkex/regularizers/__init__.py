"""Regularizers for custom losses: functions of the logprobs, in torch. Needs torch.

A regularizer takes the logprobs of the targets in nats, one tensor per datum: `(N,)`, or `(N, K)`
with K targets a position. **These are not the whole distribution**; each docstring says what that
means. A position counts if the datum's `weights` are not 0; in a datum without weights all
positions count. Unless its docstring says otherwise, a regularizer is a sum over the logprobs that
count, divided by the number of their positions in the whole batch (`reduction="mean"`, the default)
or not (`reduction="sum"`).

Any function of data and logprobs that returns a tensor with one value is a `Regularizer`. This
module makes

- `l1`, `l2`, `elastic_net`: penalties on large logprobs;
- `entropy`, `kl_divergence`, `consistency`: terms of the probabilities, alone or compared with
  others;
- `orthogonality`, `gradient_penalty`: penalties on similar datums, and on steep losses.

Example:
    from tinkex.regularizers import Weighted, entropy, l2, regularized

    def nll(data, logprobs):
        return -sum(row.sum() for row in logprobs), {}

    terms = [Weighted(l2(), 0.1, "l2"), Weighted(entropy("maximize"), 0.01, "entropy")]
    fb = trainer.forward_backward_custom(data, regularized(nll, terms, track_grad_norms=True))
    penalty = (await fb).metrics["regularizers/l2/contribution"]
"""

from tinkex.regularizers.composition import Weighted, regularized
from tinkex.regularizers.distributions import consistency, entropy, kl_divergence
from tinkex.regularizers.norms import elastic_net, l1, l2
from tinkex.regularizers.structure import gradient_penalty, orthogonality
from tinkex.regularizers.terms import Reference, Regularizer

__all__ = [
    "Reference",
    "Regularizer",
    "Weighted",
    "consistency",
    "elastic_net",
    "entropy",
    "gradient_penalty",
    "kl_divergence",
    "l1",
    "l2",
    "orthogonality",
    "regularized",
]
