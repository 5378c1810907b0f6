"""SMoLoRA: experts for visual understanding and for instruction following, chosen apart, their outputs fused.

All experts are shared by all tasks; what keeps tasks apart is which two of them a row is sent to. Source: Wang et al.
2024, "SMoLoRA" (arXiv 2411.13949). Where the paper is silent this follows the authors' release, and an option or a
sentence below says where it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lilora.backbones import is_projector
from lilora.methods import Kept, Method, ParameterCount, Sites
from lilora.methods.seqlora import check_lora_fields

if TYPE_CHECKING:
    from torch import Tensor

    from lilora.adapters.adapters import Adapters
    from lilora.adapters.initial import InitA
    from lilora.adapters.preparation import Preparation
    from lilora.adapters.state import State
    from lilora.model.families import Images
    from lilora.model.micro_batch import MicroBatch
    from lilora.model.tokens import Batch

ROUTERS = ("router_visual", "router_instruction")


@dataclass(frozen=True)
class SMoLoRA(Method):
    """y = W x + b + a_v v + a_i u, v and u the outputs of one visual and one instruction expert, LoRAs of rank r / E.

    The visual expert of a module is the one with the greatest score under router_visual of the mean of the module's
    input tokens; the instruction expert under router_instruction of an embedding of the instruction. A chosen expert's
    output is (lora_alpha / r) B A x, with the whole r, as in the release. (a_v, a_i) = softmax(f_v . v, f_i . u) for
    each token, as in the release: the token speaks through the two outputs.

    The mean is over a row's prompt: the release takes every token, answers in training and padding too, and while
    generating the newest token alone, so that an expert depended on the batch and changed within an answer. At the
    projector it is over the picture's patches. What stands for the instruction is its template, as in the release, but
    read off the row's own words: the release looks it up by data set, a task id in disguise, and here there is none.

    Parameters, summed over sites (d, k): r (d + k) + 2 d, and (E / 2) (k + m) of the routers, where m is the width of
    the instruction's embedding (the language model's own for "backbone"); `centred` adds k, which no stage trains. All
    stored once. Two experts leave nothing to route: no routers, only the fusion.

    Attributes:
        rank: r, of all experts together.
        lora_alpha: see above.
        dropout: on the experts' input, one mask for all of them; the routers' is whole.
        experts: E, an even divisor of the rank; half of them are visual.
        router: "straight-through": a chosen expert has weight 1, and its router the gradient of log p. "hard": weight 1
            and no gradient, as in the release, so the routers stay as drawn and are not trained.
        routers: "first": they train in the first stage and are frozen from then on, as in the release; or "every": they
            go on training, and where rows choose other experts, what these learned of earlier tasks is lost to them.
            The fusion goes on training in both.
        instruction: what routes to an instruction expert: "template", what the instruction ends with and says how to
            answer (the longest published one, else the last line), as in the release, or the "whole" instruction.
        centred: the visual router sees x - c, c the mean of what it sees over (at most 1,000 of) the first task's
            training rows under the bare model, kept as it is from then on. A module's inputs have most of their length
            in common, by which one expert scores highest for all rows; the release has no such thing, and neither is
            it the default. What stands for the instruction stays whole: of a first task with one template it would be
            nothing.
        balance: weight of a loss that spreads rows over the experts, as Switch (Fedus et al. 2021, Eq. 4) has it: the
            mean over modules and both kinds of e * sum over e experts of (share of rows sent to it) * (its mean
            probability); 1 where all are used alike, e where one is. Of each micro-batch, by its share of the answer
            tokens. 0 (the paper names none): one expert of a kind may take all rows. Ours.
        instruction_encoder: "backbone": the mean of the frozen input embeddings of the instruction's tokens. Otherwise
            the name or folder of a sentence-transformers model (the paper's is
            "sentence-transformers/all-MiniLM-L6-v2"). Never chosen by what is installed, since results depend on it.
        init_a: "kaiming" or "gaussian", for A; see `adapters.initial`. The release draws A from N(0, 0.01^2); here it
            starts where the other methods' does. Routers and fusion are uniform in +-1/sqrt(inputs), as there; B is 0.
    """

    mergeable: ClassVar[bool] = False
    #: The name in digests. What went by the class's own trained its routers in every stage, by whole instructions.
    identity: ClassVar[str] = "SMoLoRA 2"

    rank: int = 16
    lora_alpha: float = 32
    dropout: float = 0.0
    experts: int = 8
    router: Literal["straight-through", "hard"] = "straight-through"
    routers: Literal["first", "every"] = "first"
    instruction: Literal["template", "whole"] = "template"
    centred: bool = False
    balance: float = 0.0
    instruction_encoder: str = "backbone"
    init_a: InitA = "kaiming"

    def __post_init__(self) -> None:
        check_lora_fields(self.rank, self.dropout, self.init_a)
        if self.experts < 2 or self.experts % 2 or self.rank % self.experts:
            raise ValueError(
                f"rank is {self.rank} and experts is {self.experts}: half of the experts are visual and all share the "
                "rank equally; choose an even number of experts that divides the rank"
            )
        for name, choices in (
            ("router", ("straight-through", "hard")),
            ("routers", ("first", "every")),
            ("instruction", ("template", "whole")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"no {name} '{getattr(self, name)}'; there are: {', '.join(choices)}")
        if self.balance < 0 or (self.balance and self.router == "hard"):
            raise ValueError(
                f"balance is {self.balance} and router '{self.router}': the weight is not negative, and a hard router "
                "gets no gradient; take router='straight-through'"
            )
        if not self.instruction_encoder:
            raise ValueError("instruction_encoder is empty; name a sentence-transformers model, or 'backbone'")

    def stage_method(self, first: bool = False) -> Method:
        """With two experts, the same whatever the routers would be; in the first stage, whenever they train later."""
        names: tuple[str, ...] = ("routers",) if first or self.router == "hard" else ()
        if not self._routes:
            names = ("router", "routers", "instruction", "centred", "balance", "instruction_encoder")
        defaults: dict[str, Any] = {field.name: field.default for field in fields(self) if field.name in names}
        return replace(self, **defaults)

    def prepare(self, preparation: Preparation) -> State | None:
        """Before the first stage, where the visual routers' inputs are centred, a state of their centres alone."""
        if preparation.state is not None or not (self.centred and self._routes):
            return preparation.state
        from lilora.adapters.state import State
        from lilora.methods.smolora.centres import visual_centres

        return State((), visual_centres(preparation.model, preparation.sites, preparation.current))

    def attach(self, model: Any, sites: Sequence[str], state: State | None, task: str, seed: int | None) -> Adapters:
        """SMoLoRA layers with the state's tensors, or with new ones; see `Method.attach`."""
        from lilora.adapters.adapters import Adapters
        from lilora.adapters.initial import as_parameter
        from lilora.methods.smolora.layer import Routing, SMoLoRALinear

        adapters = Adapters(model, {site: model.get_submodule(site) for site in sites}, whole_rows=self._routes)
        first = state is None or not state.tasks
        if first and seed is None:
            raise ValueError("SMoLoRA answers from a trained state, and there is none; train a stage first")
        values = self._initial(adapters.originals, task, seed) if first and seed is not None else {}
        values |= {} if state is None else dict(state.shared)
        routing = Routing() if self._routes else None
        for site, original in adapters.originals.items():
            tensors = {name: as_parameter(values[f"{site}.{name}"], original.weight) for name in self._names}
            adapters.tensors.update({f"{site}.{name}": tensor for name, tensor in tensors.items()})
            layer = SMoLoRALinear(
                original,
                tensors,
                site,
                self.experts,
                self.lora_alpha / self.rank,
                self.dropout,
                routing,
                per_picture=is_projector(site),
                straight_through=self.router == "straight-through",
            ).eval()
            adapters.layers[site] = layer
            model.set_submodule(site, layer)
        if routing is not None and self.balance and seed is not None and self._trains(ROUTERS[0], first):
            routing.probabilities = {}
        trained = [name for name in adapters.tensors if self._trains(name.rpartition(".")[2], first)]
        adapters.declare(trained if seed is not None else ())
        return adapters

    def before_forward(self, adapters: Adapters, batch: Batch, images: Images | None) -> None:
        """Tell the layers where the prompts are, and what each row's instruction is."""
        import torch

        from lilora.adapters.similarity import embed_rows
        from lilora.methods.smolora.layer import sentence_embeddings

        routing = next(iter(adapters.layers.values())).routing
        if routing is None:
            return
        if self.instruction_encoder == "backbone":
            with torch.no_grad():
                asked = batch.template_mask if self.instruction == "template" else batch.instruction_mask
                _, instructions = embed_rows(adapters.model, replace(batch, instruction_mask=asked), None)
        else:
            words = batch.template_words if self.instruction == "template" else batch.instructions
            instructions = sentence_embeddings(self.instruction_encoder, words)
        tokens = () if images is None else images.tokens
        routing.begin(batch.prompt_mask, batch.image_rows, instructions, tokens)

    def shared_groups(self) -> Mapping[str, str]:
        """The experts, what fuses their outputs, and the routers."""
        routers = {"routers": r".+\.(?:router_\w+|centre)"} if self._routes else {}
        return {"experts": r".+\.[AB]", "fusion": r".+\.fusion", **routers}

    def watch_routers(self, adapters: Adapters, see: Callable[[str, str, Tensor], None]) -> list[Any]:
        """Each row's choice at every module, of a visual and of an instruction expert."""

        def hook(layer: Any, inputs: Any, output: Any) -> None:
            for router, chosen in zip(ROUTERS, layer.routing.chosen[layer.site].chunk(2, -1), strict=True):
                see(router.removeprefix("router_"), layer.site, chosen)

        return [layer.register_forward_hook(hook) for layer in adapters.layers.values()] if self._routes else []

    def row_loss(self, adapters: Adapters, part: MicroBatch) -> Tensor | None:
        """balance * the balance loss of the micro-batch, by its share of the batch's answer tokens."""
        routing = next(iter(adapters.layers.values())).routing
        if routing is None or not routing.probabilities:
            return None
        from lilora.methods.smolora.layer import balance_loss

        share = len(part.wanted) / part.num_tokens
        loss: Tensor = self.balance * share * balance_loss(routing)
        return loss

    def count(self, sites: Sites, first: bool = True) -> ParameterCount:
        """Sum of r (d + k) + 2 d + (E / 2) (k + m), shared, and k if centred; without these for two experts."""
        width = self._width(hidden_size(sites)) if self._routes else 0
        trainable = total = 0
        for d, k in sites.values():
            sizes = self._sizes(d, k, width)
            trainable += sum(size for name, size in sizes.items() if self._trains(name, first))
            total += sum(sizes.values())
        return ParameterCount(trainable=trainable, shared=total, per_task=0)

    def keeps(self, d: int, k: int, element: int) -> Kept:
        """LoRA's, of all experts together, and the dropout's mask."""
        return Kept.by_lora(self.rank, self.dropout, k, as_given=element == 4)

    @property
    def _routes(self) -> bool:
        return self.experts > 2

    @property
    def _names(self) -> tuple[str, ...]:
        centre = ("centre",) if self.centred else ()
        return ("A", "B", "fusion", *((*ROUTERS, *centre) if self._routes else ()))

    def _trains(self, name: str, first: bool) -> bool:
        """Whether a stage, the first or a later one, trains the tensors called `name`."""
        trained = self.router == "straight-through" and (first or self.routers == "every")
        return name != "centre" and (trained or name not in ROUTERS)

    def _sizes(self, d: int, k: int, width: int) -> dict[str, int]:
        """Elements of each tensor of a site (d, k); `width`: of the instruction's embedding."""
        half = self.experts // 2
        sizes = {"A": self.rank * k, "B": d * self.rank, "fusion": 2 * d}
        sizes |= {"router_visual": half * k, "router_instruction": half * width, "centre": k}
        return {name: sizes[name] for name in self._names}

    def _width(self, hidden: int) -> int:
        """m: `hidden`, the language model's, or the sentence encoder's."""
        if self.instruction_encoder == "backbone":
            return hidden
        from lilora.methods.smolora.layer import sentence_embeddings

        return sentence_embeddings(self.instruction_encoder, ["width"]).shape[1]

    def _initial(self, originals: dict[str, Any], task: str, seed: int) -> dict[str, Tensor]:
        """Initial values of every tensor."""
        import torch

        from lilora.adapters.initial import initial_a

        values: dict[str, Tensor] = {}
        half = self.experts // 2
        sites = {site: (linear.out_features, linear.in_features) for site, linear in originals.items()}
        width = self._width(hidden_size(sites)) if self._routes else 0
        for site, (d, k) in sites.items():
            values[f"{site}.A"] = initial_a(seed, task, f"{site}.A", (self.rank, k), self.init_a)
            values[f"{site}.B"] = torch.zeros(d, self.rank)
            shapes = {"fusion": (2, d), "router_visual": (half, k), "router_instruction": (half, width)}
            for name in (name for name in shapes if name in self._names):
                values[f"{site}.{name}"] = initial_a(seed, task, f"{site}.{name}", shapes[name], "kaiming")
            if "centre" in self._names:
                values[f"{site}.centre"] = torch.zeros(k)  # `prepare` knows better
        return values


def hidden_size(sites: Sites) -> int:
    """The language model's width, read off the adapted layers.

    It is what the layers of a block that read the residual stream take in, and what those that write to it, and the
    projector's last one, give out.
    """
    language = [site for site in sites if not is_projector(site)]
    site = language[0] if language else list(sites)[-1]
    d, k = sites[site]
    return d if not language or site.endswith(("down_proj", "o_proj")) else k


METHOD = SMoLoRA
