"""What the optimizer knows of the curvature, weight by weight."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class BlockReport:
    """One block of the preconditioner.

    Attributes:
        weights: Paths of the weights that it preconditions.
        treatment: How: the sizes of its Kronecker factors, or `"diagonal"`; or `"none"`, where the
            damping is so strong that the gradient is only scaled.
        size: Number of weights.
        largest: Largest eigenvalue, the largest entry of D.
        mean: Mean eigenvalue.
        smallest: Smallest eigenvalue.
        condition: Ratio of the largest to the smallest eigenvalue after damping.
    """

    weights: tuple[str, ...]
    treatment: str
    size: int
    largest: float
    mean: float
    smallest: float
    condition: float


@dataclasses.dataclass(frozen=True)
class CurvatureReport:
    """All blocks of a preconditioner; `print(report)` shows them as a table."""

    blocks: tuple[BlockReport, ...]

    @classmethod
    def of(cls, optimizer):
        """The report of a `KroneckerOptimizer` that has taken a step."""
        rows = []
        for block, variables in zip(optimizer.blocks, optimizer.block_variables, strict=True):
            spectrum = np.asarray(block.diagonal, np.float64)
            damped = np.asarray(optimizer.damp(block), np.float64)
            condition = float(damped.max() / damped.min())
            rows.append(
                BlockReport(
                    tuple(variable.path for variable in variables),
                    block.treatment if spectrum.size == 1 or condition > 1.0 else "none",
                    spectrum.size,
                    *(float(x) for x in (spectrum.max(), spectrum.mean(), spectrum.min())),
                    condition,
                )
            )
        return cls(tuple(rows))

    def __str__(self):
        width = max(len(path) for block in self.blocks for path in block.weights) + 2
        lines = [
            f"{'weights':<{width}}{'treatment':<24}{'size':>7}{'largest':>10}{'mean':>10}"
            f"{'smallest':>10}{'condition':>11}"
        ]
        for block in self.blocks:
            first, *others = block.weights
            lines.append(
                f"{first:<{width}}{block.treatment:<24}{block.size:>7}{block.largest:>10.2g}"
                f"{block.mean:>10.2g}{block.smallest:>10.2g}{block.condition:>11.2g}"
            )
            lines += [f"{path:<{width}}with the one above" for path in others]
        return "\n".join(lines)
