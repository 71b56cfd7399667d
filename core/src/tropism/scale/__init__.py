"""How a run fills what it runs on: devices, precision, memory, processes. What the options cost is in ``docs/scale.md``.

One process:

- ``engine``: where tensors live and gradients flow: device, precision, random states, the torch optimizer's step.
- ``float16``: the scale of the loss in float16.
- ``network``: from a policy to what learns: offloaded, checkpointed, adapted, sharded, compiled, as the recipe says.
- ``memory``: the most that was in use.

Several, which make of a run what one would:

- ``launch``: start them on this machine, and end them together.
- ``processes``: who am I, and what they tell each other.
- ``spread``: which samples and batches are whose, by whole groups.
- ``shards``: weights of which each keeps a part (FSDP2).
- ``even``: equally many batches in each, as sharded weights want it.
"""
