"""The setting that the studies on the mini benchmark share: half an epoch a task, at the rate that a search chose.

In batches of 8 that is as many steps as one epoch has in batches of 16, at half its cost, which is why it was taken:
three seeds of Tables 1, 2 and 4 fit into an evening on two cores.

A method's row is one trial in all of them, so its stages are trained once and its numbers are the same in every table.
The search is `table1_single`'s (`experiments/_search.py`): validation data of the first two tasks, seed 0. With these
rates it chose the default weights of LiLoRA (0.1), C-LoRA, EWC and EWC+TIR (1000), and a share of 0.125 for Replay.
"""

from dataclasses import replace

from lilora.methods import Method
from lilora.methods.dora import DoRA
from lilora.methods.replay import Replay
from lilora.methods.seqlora import SeqLoRA
from lilora.training import Training

#: Chosen for every method but those of `SLOWER`.
RATE = 3e-3
#: What `table1_single` searches the rate of.
TRAINING = Training(epochs=0.5, batch_size=8)
SLOWER: dict[type[Method], float] = {SeqLoRA: 1e-3, DoRA: 1e-3}
REPLAY = Replay(share=0.125)


def training_of(method: Method) -> Training:
    """Half an epoch at the method's rate."""
    return replace(TRAINING, learning_rate=SLOWER.get(type(method), RATE))
