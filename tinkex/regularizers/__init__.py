"""Terms that are added to a custom loss: functions of the logprobs, in torch. Needs torch.

Example:
    >>> loss_fn = regularized(
    ...     my_loss,
    ...     [Weighted(kl_divergence("ref_logps"), 0.1, "kl"), Weighted(entropy("maximize"), 0.01, "entropy")],
    ...     track_grad_norms=True,
    ... )

The logprobs are those of the targets, `(N,)` a datum, or `(N, K)` for several targets a position.
**They are not the whole distribution**: what a term makes of that stands in its own docstring. A
position counts where the datum's `weights` are not 0; all count in a datum without weights. Where
its docstring says no other, a term is a sum over these, by default divided by their number in the
whole batch.

Any function of data and logprobs that returns a tensor of one value is a `Regularizer`; those here
are made by

- `l1`, `l2`, `elastic_net`: how large the logprobs are;
- `entropy`, `kl_divergence`, `consistency`: what the probabilities are, alone or beside others;
- `orthogonality`, `gradient_penalty`: how alike the datums are, and how steep a loss is.
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
