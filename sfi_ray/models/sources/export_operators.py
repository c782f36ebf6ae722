"""The operators of torch (aten) that exported classifiers may call: no argument makes them leave their memory.

A graph comes from strangers, and torch trusts the callers of its operators: some take a tensor's memory by address,
size or strides, or believe an index. So only the operators listed here run. They compute new values from old ones,
check their arguments on every device, and give a result whose size follows from sizes alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

#: Operators that return something new, or a view. A name without a dot is the ``default`` overload.
OPERATORS = frozenset(
    name
    for topic in (
        # products
        """
        conv1d conv1d.padding conv2d conv2d.padding conv3d conv3d.padding conv_transpose1d conv_transpose2d.input
        convolution linear addmm addmv baddbmm bmm matmul mm mv dot einsum
        """,
        # norms
        """
        batch_norm _native_batch_norm_legit_no_training layer_norm native_layer_norm group_norm native_group_norm
        instance_norm rms_norm linalg_vector_norm norm.Scalar norm.ScalarOpt_dim norm.ScalarOpt_dim_dtype
        norm.ScalarOpt_dtype
        """,
        # activations
        """
        relu relu6 leaky_relu prelu elu celu selu gelu silu mish hardtanh hardsigmoid hardswish hardshrink softshrink
        sigmoid log_sigmoid tanh softplus glu threshold softmax.int _softmax log_softmax.int _log_softmax logsumexp
        """,
        # windows
        """
        max_pool1d max_pool2d max_pool2d_with_indices avg_pool1d avg_pool2d adaptive_avg_pool1d adaptive_avg_pool2d
        _adaptive_avg_pool2d adaptive_max_pool1d adaptive_max_pool2d upsample_nearest1d upsample_nearest1d.vec
        upsample_nearest2d upsample_nearest2d.vec _upsample_nearest_exact2d _upsample_nearest_exact2d.vec
        upsample_linear1d upsample_linear1d.vec upsample_bilinear2d upsample_bilinear2d.vec upsample_bicubic2d
        upsample_bicubic2d.vec _upsample_bilinear2d_aa _upsample_bilinear2d_aa.vec _upsample_bicubic2d_aa
        _upsample_bicubic2d_aa.vec pixel_shuffle pixel_unshuffle channel_shuffle pad constant_pad_nd reflection_pad1d
        reflection_pad2d replication_pad1d replication_pad2d
        """,
        # attention
        """
        scaled_dot_product_attention
        """,
        # shapes, parts and indices
        """
        view view_as _unsafe_view reshape reshape_as flatten.using_ints unflatten.int squeeze squeeze.dim squeeze.dims
        unsqueeze permute transpose.int t swapaxes movedim.int movedim.intlist numpy_T expand expand_as broadcast_to
        repeat tile repeat_interleave.self_int select.int slice.Tensor narrow diagonal unfold flip roll rot90 cat concat
        stack hstack vstack split.Tensor split.sizes split_with_sizes chunk tensor_split.sections tensor_split.indices
        unbind.int meshgrid meshgrid.indexing im2col tril triu one_hot index.Tensor index_select gather take_along_dim
        """,
        # arithmetic
        """
        add.Tensor add.Scalar sub.Tensor sub.Scalar rsub.Tensor rsub.Scalar mul.Tensor mul.Scalar div.Tensor div.Scalar
        div.Tensor_mode div.Scalar_mode true_divide.Tensor true_divide.Scalar floor_divide floor_divide.Scalar
        remainder.Tensor remainder.Scalar remainder.Scalar_Tensor fmod.Tensor fmod.Scalar neg abs sign square sqrt rsqrt
        reciprocal pow.Tensor_Tensor pow.Tensor_Scalar pow.Scalar exp exp2 expm1 log log2 log10 log1p sin cos tan asin
        acos atan atan2 sinh cosh erf floor ceil round round.decimals trunc frac clamp clamp.Tensor clamp_min
        clamp_min.Tensor clamp_max clamp_max.Tensor minimum maximum fmin fmax addcmul addcdiv lerp.Scalar lerp.Tensor
        nan_to_num sum.dim_IntList sum mean mean.dim prod prod.dim_int amax amin max.other max max.dim min.other min
        min.dim argmax argmin var var.dim var.correction std std.dim std.correction var_mean var_mean.dim
        var_mean.correction std_mean std_mean.dim std_mean.correction cumsum cumprod any any.dim any.dims all all.dim
        all.dims topk sort sort.stable argsort argsort.stable
        """,
        # comparisons
        """
        eq.Tensor eq.Scalar ne.Tensor ne.Scalar lt.Tensor lt.Scalar le.Tensor le.Scalar gt.Tensor gt.Scalar ge.Tensor
        ge.Scalar logical_and logical_or logical_xor logical_not bitwise_and.Tensor bitwise_and.Scalar
        bitwise_and.Scalar_Tensor bitwise_or.Tensor bitwise_or.Scalar bitwise_or.Scalar_Tensor bitwise_xor.Tensor
        bitwise_xor.Scalar bitwise_xor.Scalar_Tensor bitwise_not isnan isinf isfinite where.self where.Scalar
        masked_fill.Scalar masked_fill.Tensor
        """,
        # new tensors and copies; dropout, which is none where it does not train
        """
        arange arange.start arange.start_step linspace.Tensor_Tensor linspace.Tensor_Scalar linspace.Scalar_Tensor
        linspace zeros zeros_like new_zeros ones ones_like new_ones full full_like new_full eye eye.m scalar_tensor
        clone contiguous to.device to.dtype to.other to.dtype_layout _to_copy type_as alias detach lift_fresh_copy
        dropout feature_dropout alpha_dropout
        """,
        # sizes
        """
        sym_size.int sym_numel sym_stride.int
        """,
    )
    for name in topic.split()
)

#: Operators that change their first argument, which must be neither an input nor a weight.
IN_PLACE = frozenset(
    """
        relu_ relu6_ leaky_relu_ elu_ celu_ selu_ gelu_ silu_ mish_ hardtanh_ hardsigmoid_ hardswish_ sigmoid_ tanh_
        threshold_ add_.Tensor add_.Scalar sub_.Tensor sub_.Scalar mul_.Tensor mul_.Scalar div_.Tensor div_.Tensor_mode
        div_.Scalar div_.Scalar_mode neg_ exp_ sqrt_ rsqrt_ pow_.Scalar pow_.Tensor clamp_ clamp_.Tensor clamp_min_
        clamp_min_.Tensor clamp_max_ clamp_max_.Tensor addcmul_ addcdiv_ copy_ fill_.Scalar fill_.Tensor zero_
        masked_fill_.Scalar masked_fill_.Tensor dropout_ feature_dropout_ alpha_dropout_ detach_
    """.split()  # noqa: SIM905 - easier to read than a list of quoted names
)


class GraphError(ValueError):
    """A graph that is not run; the message says why."""


def find_operator(name: str, given: Mapping[str, Any]) -> OpOverload:
    """Finds an operator of the list by its name in a graph, without ``torch.ops.aten.``.

    Args:
        name: Packet and overload, such as ``add.Tensor`` or ``relu.default``.
        given: Its arguments by name, as far as they stand in the graph.

    Raises:
        GraphError: It is not in the list, trains or is random, or is given a type that is none.
    """
    packet, _, overload = name.partition(".")
    short = packet if overload == "default" else name
    if short not in OPERATORS and short not in IN_PLACE:
        raise GraphError(f"calls {name[:100]!r}, which is not among the operators that exported classifiers may call")
    found: OpOverload = getattr(getattr(torch.ops.aten, packet), overload)
    if given.get("training") is True or given.get("train") is True:
        raise GraphError("was exported in training mode; call module.eval() before torch.export")
    if given.get("dropout_p"):
        raise GraphError(f"calls {name} with dropout, which is random; a classifier is not")
    if given.get("use_input_stats") is True and given.get("running_mean") is not None:
        raise GraphError(f"calls {name} so that it changes its weights")
    # torch takes a number for any of these, and believes it.
    types = {"ScalarType": torch.dtype, "Layout": torch.layout, "MemoryFormat": torch.memory_format}
    for argument in found._schema.arguments:  # noqa: SLF001 - the only place where torch says it
        value = given.get(argument.name)
        kind = next((kind for text, kind in types.items() if text in str(argument.real_type)), None)
        if kind and value is not None and not isinstance(value, kind):
            raise GraphError(f"calls {name} with {argument.name} = {value!r}")
    return found


def check_call(operator: OpOverload, arguments: Mapping[str, Any], *, most_pieces: int = 2**14) -> None:
    """Checks the arguments of an operator of the list, by name, beyond torch's own checks.

    Raises:
        GraphError: A kernel could reach beyond its memory, stop the process, or make tensors without end.
    """
    # Characters of a text, numbers of an operator on windows, and growth of an image.
    most_text, most_in_window, most_scale = 256, 2**12, 2.0**12
    name = operator._schema.name.removeprefix("aten::")  # noqa: SLF001
    # Kernels count these with 32 bits; the channels that are groups are counted elsewhere.
    is_on_windows = any(part in name for part in ("conv", "pool", "pad", "im2col", "upsample", "pixel_"))
    for argument, value in arguments.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, str) and len(one) > most_text:
                raise GraphError(f"{argument} is a text of {len(one):,} characters")
            if argument == "groups" or isinstance(one, bool) or not is_on_windows:
                continue
            if isinstance(one, int) and abs(one) > most_in_window:
                raise GraphError(f"{argument} is {one:,}, over {most_in_window:,}")
            if isinstance(one, float) and "upsample" in name and not 1 / most_scale <= one <= most_scale:
                raise GraphError(f"{argument} is {one:g}, not between 1/{most_scale:g} and {most_scale:g}")
    tensors = [value for value in arguments.values() if isinstance(value, Tensor)]
    # The processor stops where the least integer is divided by -1.
    if arguments.get("rounding_mode") == "trunc" and not any(tensor.is_floating_point() for tensor in tensors):
        raise GraphError("it divides integers towards zero")
    if any("List" in str(value.type) for value in operator._schema.returns):  # noqa: SLF001
        dim = arguments.get("dim", 0)
        if arguments.get("sections", 0) > most_pieces or any(
            tensor.dim() and tensor.shape[dim] > most_pieces for tensor in tensors
        ):
            raise GraphError(f"it parts a tensor into more than {most_pieces:,}")
