"""Three tricks that make a step faster and its numbers other by rounding: `speed_up` is a switch of its own.

The fused trainer computes what TRL's does. These change how layers compute: norms in 16 bits, each LoRA update in one
product with its sum, and layers compiled. Equal within the rounding of 16 bits; in fp32 within that of fp32. Left out:
kernels of one's own, and anything that changes what is computed.
"""

import types


def speed_up(model, dtype, compiles: bool = True):
    """Apply the tricks to a model with LoRA, in place, and return it."""
    cast_frozen(model, dtype)
    fuse_lora(model)
    if compiles:
        compile_layers(model)
    return model


def cast_frozen(model, dtype) -> int:
    """Store frozen weights that are fp32 in the dtype that the run computes in, and return how many numbers that were.

    `peft.prepare_model_for_kbit_training` makes norms, embeddings and head fp32. Norms that are fp32 make every
    activation between two matrix products fp32, twice the memory to write and read. Norms still compute their mean
    of squares in fp32.
    """
    import torch

    weights = [it for it in model.parameters() if not it.requires_grad]
    frozen = [it for it in weights if it.dtype == torch.float32 != dtype]
    for weight in frozen:
        weight.data = weight.data.to(dtype)
    return sum(weight.numel() for weight in frozen)


def fuse_lora(model) -> int:
    """Compute `base(x) + scaling * x A B` with its scaling and sum inside the last product; return for how many layers.

    `peft` takes a product, a scaling and a sum, each of which writes and reads all outputs of the layer once more.
    """
    from peft.tuners.lora import LoraLayer

    layers = [it for it in model.modules() if isinstance(it, LoraLayer) and it.lora_A and not it.lora_variant]
    for layer in layers:
        layer.forward = types.MethodType(_one_product, layer)
    return len(layers)


def _one_product(layer, x, *args, **kwargs):
    """Do what `peft`'s LoRA layer does in its `forward`, for one adapter."""
    import torch

    if layer.disable_adapters or layer.merged or len(layer.active_adapters) != 1 or args or kwargs:
        return type(layer).forward(layer, x, *args, **kwargs)
    (name,) = layer.active_adapters
    output = layer.base_layer(x)
    a, b = (it[name].weight.to(output.dtype) for it in (layer.lora_A, layer.lora_B))
    thin = torch.nn.functional.linear(layer.lora_dropout[name](x).to(output.dtype), a)
    whole = torch.addmm(output.flatten(0, -2), thin.flatten(0, -2), b.T, alpha=layer.scaling[name])
    return whole.view_as(output)


def compile_layers(model) -> int:
    """Compile each layer of the decoder for rows of any length, and return how many were.

    A compiled layer fuses what stands between matrix products: norms, rotation, activation, sums. The first step
    compiles; all layers share what was compiled. Where nothing can be compiled, for want of a C++ compiler or because a
    space in torch's own path breaks its linker's line, a sentence says so, and the layers stay as they are.
    """
    import torch._dynamo
    from transformers.modeling_layers import GradientCheckpointingLayer

    try:
        torch.compile(torch.nn.functional.silu)(torch.ones(64, device=model.device))
    except RuntimeError as error:
        print(f"Layers are not compiled: {str(error).strip().splitlines()[0]}")
        return 0
    # One for each mixture of training or not, recomputed or not, with gradients or not: more than the 8 it would allow.
    torch._dynamo.config.recompile_limit = max(32, torch._dynamo.config.recompile_limit)
    layers = [it for it in model.modules() if isinstance(it, GradientCheckpointingLayer)]
    for layer in layers:
        layer.compile(dynamic=True)
    return len(layers)
