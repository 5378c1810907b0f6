"""LiLoRA (LoRA in LoRA): A and a basis B0 shared by all tasks, a low-rank residual B~ A~ and a fusion alpha for each.

Earlier tasks are answered with the present A and B0 and their own frozen parts, so what forgets is the drift of A and
B0; the basis stability loss holds B0 back where the new task's residual points elsewhere than the last one's.
Source: Che et al., "LoRA in LoRA", Eq. 3-8 and Algorithm 1; where it is silent, an option says what was chosen.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from lilora.methods import Kept, Method, ParameterCount, Sites
from lilora.methods._routed import Routed
from lilora.methods.lilora.checks import check_fields
from lilora.methods.seqlora import check_lora_fields

if TYPE_CHECKING:
    from torch import Tensor

    from lilora.adapters.adapters import Adapters
    from lilora.adapters.initial import InitA
    from lilora.adapters.state import State


#: Fields that say what holds A and B0 from the second task on.
LATER = ("lam", "basis", "shared_a", "similarity", "similarity_gradient", "regularise", "weighting", "compared")


@dataclass(frozen=True)
class LiLoRA(Routed):
    """W' = W + (lora_alpha / r) (alpha B0 + (1 - alpha) B~_i A~_i) A for task i, alpha = sigmoid(theta_i).

    Loss from the second task on: token loss + lam * sum over modules of (1 - sim) ||B0 - B0'||_F^2.

    Parameters, summed over sites (d, k): A has r k, B0 has d r, a task's part r~ (d + r) + 1. The first stage trains
    all of them; A and B0 are stored once, a part for each task. `count` spells out what the switches below change.

    Attributes:
        rank, task_rank: r, and r~ < r (None: r // 2).
        lora_alpha: the update is scaled by lora_alpha / rank (the paper names no scale).
        dropout: on the adapter's input.
        lam: lambda, weight of the basis stability loss. The paper names none; the default is what
            `experiments/table1_single.py` chose on validation data of the mini benchmark's first two tasks.
        regularise: which of what all tasks share the loss holds: "B0" (the paper), "A" or "both". A's term is
            (1 - sim) ||A - A'||_F^2 with the same cosine.
        weighting: of the drift: "cosine" (Eq. 8), or "none", plain L2: every module weighs 1.
        compared: with what Eq. 7 compares this task's B~ A~: the "last" task's (the paper), or the "mean" of all
            earlier tasks'.
        alpha: None for a learned one per module and task, theta ~ N(0, 1); or fixed, 0 to 1 (Table 4). At 1 the task's
            part has no effect and is not trained, at 0 B0 is not.
        alpha_rate: factor on theta's learning rate, above 0. Adam moves an entry by about the rate a step, so that at
            the default theta goes no further than the sum of the rates, 0.0005 in the paper's own setting.
        basis: "regularised" (the paper), "frozen" (B0 trains on the first task only, as the authors' release does; the
            loss may still hold A), or "free" (no loss, whatever `lam`).
        shared_a: "trained" (Algorithm 1), "frozen" after the first task, or a number: the factor on A's learning rate
            after the first task.
        similarity: "module" (a cosine for each module) or "global" (one of all modules' products together).
        similarity_gradient: let the gradient pass through the cosine; by default it only weighs the drift.
        share_a, decompose_b: the components of Table 2. Without `share_a` each task has its own A (r k more a task);
            without `decompose_b` each has its own full B (d r a task), no B0, no alpha, no loss (Eq. 3).
        init_a: "kaiming" or "gaussian", for A and A~; see `adapters.initial`. B0 and B~ start at 0.
        init_by_task: draw A and A~ anew for each task that draws them; False: the same for all. See `SeqLoRA`. Theta is
            drawn for each task in both cases, as Eq. 5 says.
        route: "told" the task at test (the paper), or "nearest": each row x takes the part of argmax over the tasks t
            learned so far of the mean over pictures and instructions of cos(e(x) - m, e_t - m), e the embeddings under
            the frozen backbone, e_t their mean over t's training rows and m the mean of these over tasks. Our choice:
            nothing is trained, so told and routed share their stages (`lilora.adapters.similarity.nearest_task`).
    """

    rank: int = 16
    task_rank: int | None = None
    lora_alpha: float = 32
    dropout: float = 0.0
    lam: float = 0.1
    regularise: Literal["B0", "A", "both"] = "B0"
    weighting: Literal["cosine", "none"] = "cosine"
    compared: Literal["last", "mean"] = "last"
    alpha: float | None = None
    alpha_rate: float = 1.0
    basis: Literal["regularised", "frozen", "free"] = "regularised"
    shared_a: Literal["trained", "frozen"] | float = "trained"
    similarity: Literal["module", "global"] = "module"
    similarity_gradient: bool = False
    share_a: bool = True
    decompose_b: bool = True
    init_a: InitA = "kaiming"
    init_by_task: bool = True

    def __post_init__(self) -> None:
        check_lora_fields(self.rank, self.dropout, self.init_a)
        self.check_route()
        check_fields(self)
        # One spelling for one meaning, since fields are identity.
        if self.shared_a == 1:
            object.__setattr__(self, "shared_a", "trained")
        if self.task_rank == self.rank // 2:
            object.__setattr__(self, "task_rank", None)
        if not self._has_theta:
            object.__setattr__(self, "alpha_rate", 1.0)

    @property
    def inner_rank(self) -> int:
        """r~."""
        return self.rank // 2 if self.task_rank is None else self.task_rank

    def stage_method(self, first: bool = False) -> Method:
        """In the first stage, the same whatever holds A and B0 back later: there is nothing to hold them to yet."""
        told = super().stage_method(first)
        if not first:
            return told
        defaults: dict[str, Any] = {field.name: field.default for field in fields(self) if field.name in LATER}
        return replace(told, **defaults)

    def attach(self, model: Any, sites: Sequence[str], state: State | None, task: str, seed: int | None) -> Adapters:
        """LiLoRA layers with the state's shared tensors and `task`'s part, or a new part; see `Method.attach`.

        Raises:
            ValueError: `task` was not learned and there is no seed to begin it with.
        """
        from lilora.adapters.adapters import Adapters, LoraPair
        from lilora.adapters.initial import as_parameter
        from lilora.methods.lilora.layer import LiLoRALinear, stability

        originals = {site: model.get_submodule(site) for site in sites}
        shared, part = self._values(originals, state, task, seed)
        adapters = Adapters(
            model,
            originals,
            own=frozenset(part),
            delta=lambda layer: layer.delta(),
            fold=lambda layer: LoraPair(layer.tensors["A"], layer.fused(), self.lora_alpha),
        )
        for site, original in originals.items():
            tensors = {
                name.removeprefix(f"{site}."): as_parameter(value, original.weight)
                for name, value in {**shared, **part}.items()
                if name.rpartition(".")[0] == site
            }
            adapters.tensors.update({f"{site}.{name}": tensor for name, tensor in tensors.items()})
            adapters.layers[site] = LiLoRALinear(
                original, tensors, self.alpha, self.lora_alpha / self.rank, self.dropout
            ).eval()
            model.set_submodule(site, adapters.layers[site])
        adapters.declare([])
        if seed is None:
            return adapters
        first = state is None
        adapters.declare([name for name in adapters.tensors if self._trains(name.rpartition(".")[2], first)])
        if self._has_theta and self.alpha_rate != 1:
            adapters.factors = {f"{site}.theta": self.alpha_rate for site in sites}
        # The first stage learns A at the full rate, whatever slows it later.
        if not first and self.share_a and not isinstance(self.shared_a, str):
            adapters.factors |= {f"{site}.A": float(self.shared_a) for site in sites}
        if state is not None and self._held:
            # Eq. 7 compares with the task before alone; "mean" with all earlier ones.
            compared = state.tasks if self.compared == "mean" else state.tasks[-1:]
            adapters.regulariser = stability(adapters, state, self._held, compared, self)
        return adapters

    def parts_to_learn(self, tasks: Sequence[str]) -> Collection[str] | None:
        """Those whose residuals this task's is compared with: the last one's, or all where their mean is."""
        if not self.decompose_b:
            return ()
        return tasks if self._held and self.compared == "mean" else tasks[-1:]

    def penalty(self, adapters: Adapters) -> Tensor | None:
        """lam * L_reg from the second task on (Eq. 8); None where nothing is held."""
        return None if adapters.regulariser is None else self.lam * adapters.regulariser()

    def kept_to_learn(self, adapters: Adapters, state: State | None) -> int:
        """What the basis stability loss holds, as the last stage left it; the parts that it reads answer too."""
        if adapters.regulariser is None:
            return 0
        return sum(tensor.nbytes for tensors in adapters.regulariser.held.values() for tensor in tensors)

    def notes(self, adapters: Adapters) -> dict[str, Any]:
        """Mean, least and greatest fusion coefficient; mean cosine and total squared drift of what the loss holds."""
        figures: dict[str, float] = {}
        layers = list(adapters.layers.values())
        if self._has_theta:
            alphas = [layer.fusion().item() for layer in layers]
            figures = {"alpha": sum(alphas) / len(alphas), "alpha_least": min(alphas), "alpha_greatest": max(alphas)}
        if adapters.regulariser is not None:
            figures["similarity"] = float(adapters.regulariser.similarities().detach().mean())
            for name in self._held:
                drift = adapters.regulariser.drifts(name).detach().sum()
                figures["basis_drift" if name == "B0" else f"{name}_drift"] = float(drift)
        return figures

    def shared_groups(self) -> Mapping[str, str]:
        """A and B0, as far as tasks share them."""
        shared = [*(["A"] if self.share_a else []), *(["B0"] if self.decompose_b else [])]
        return {name: rf".+\.{name}" for name in shared}

    def mechanisms(self, state: State, before: State | None, seed: int) -> dict[str, Any]:
        """How far alpha moved, and the cosine of this task's and the last one's residual, over modules."""
        from lilora.methods.lilora.layer import mechanisms

        return mechanisms(state, before, seed) if self.decompose_b else {}

    def count(self, sites: Sites, first: bool = True) -> ParameterCount:
        """Sums over sites of the sizes in the class's docstring, by what is shared and what this stage trains."""
        r, inner = self.rank, self.inner_rank
        trainable = shared = per_task = 0
        for d, k in sites.values():
            sizes = {"A": r * k, "B_task": d * r}
            if self.decompose_b:
                sizes = {"A": r * k, "B0": d * r, "B_task": d * inner, "A_task": inner * r}
                if self._has_theta:
                    sizes["theta"] = 1
            trainable += sum(size for name, size in sizes.items() if self._trains(name, first))
            shared += sum(size for name, size in sizes.items() if self._is_shared(name))
            per_task += sum(size for name, size in sizes.items() if not self._is_shared(name))
        return ParameterCount(trainable, shared, per_task)

    def keeps(self, d: int, k: int, element: int) -> Kept:
        """LoRA's: what is between A and the fused B, and the dropout's mask."""
        return Kept.by_lora(self.rank, self.dropout, k, as_given=True)

    def num_held(self, sites: Sites, earlier: int) -> int:
        """With what the basis stability loss compares: what it holds and the tasks' B~ and A~ as the stage found them.

        Those of the last task, or of all earlier ones.
        """
        total, r, inner = super().num_held(sites, earlier), self.rank, self.inner_rank
        if not earlier or not self._held:
            return total
        num_parts = earlier if self.compared == "mean" else 1
        for d, k in sites.values():
            total += num_parts * inner * (d + r) + sum(d * r if name == "B0" else r * k for name in self._held)
        return total

    @property
    def _held(self) -> tuple[str, ...]:
        """What the loss holds: of the shared tensors that `regularise` names, those that later stages train."""
        if not self.decompose_b or self.basis == "free" or not self.lam:
            return ()
        named = ("B0", "A") if self.regularise == "both" else (self.regularise,)
        return tuple(name for name in named if self._is_shared(name) and self._trains(name, first=False))

    @property
    def _has_theta(self) -> bool:
        return self.decompose_b and self.alpha is None

    def _is_shared(self, name: str) -> bool:
        return name == "B0" or (name == "A" and self.share_a)

    def _trains(self, name: str, first: bool) -> bool:
        """Whether a stage trains the tensors called `name`."""
        if name == "A":
            return first or not self.share_a or self.shared_a != "frozen"
        if name == "B0":
            return self.alpha != 0 and (first or self.basis != "frozen")
        return not (self.decompose_b and self.alpha == 1)

    def _values(
        self, originals: dict[str, Any], state: State | None, task: str, seed: int | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Shared tensors and `task`'s part: from the state, or drawn from the seed."""
        if seed is None:
            if state is None or task not in state.parts:
                known = ", ".join(state.tasks) if state is not None else "none"
                raise ValueError(f"LiLoRA has no part for task '{task}'; this state has learned: {known}")
            return dict(state.shared), dict(state.parts[task])
        # All are drawn, and from the second task on the shared ones dropped: values hang on names, so none shifts.
        drawn = self._initial(originals, task, seed)
        shared = {name: value for name, value in drawn.items() if self._is_shared(name.rpartition(".")[2])}
        part = {name: value for name, value in drawn.items() if name not in shared}
        return (shared if state is None else dict(state.shared)), part

    def _initial(self, originals: dict[str, Any], task: str, seed: int) -> dict[str, Tensor]:
        """Initial values of every tensor. B0 and B~ are 0, so that the first forward is the backbone's."""
        import torch

        from lilora.adapters.initial import initial_a, initial_normal

        values: dict[str, Tensor] = {}
        of_task = task if self.init_by_task else ""
        for site, original in originals.items():
            d, k = original.out_features, original.in_features
            values[f"{site}.A"] = initial_a(seed, of_task, f"{site}.A", (self.rank, k), self.init_a)
            if not self.decompose_b:
                values[f"{site}.B_task"] = torch.zeros(d, self.rank)
                continue
            shape = (self.inner_rank, self.rank)
            values[f"{site}.B0"] = torch.zeros(d, self.rank)
            values[f"{site}.B_task"] = torch.zeros(d, self.inner_rank)
            values[f"{site}.A_task"] = initial_a(seed, of_task, f"{site}.A_task", shape, self.init_a)
            if self._has_theta:  # Eq. 5: alpha = sigmoid(theta), theta ~ N(0, 1), of each module and task
                values[f"{site}.theta"] = initial_normal(seed, task, f"{site}.theta", (1,))
        return values


METHOD = LiLoRA
