"""The plain whole-image model as ONNX, with free batch, height and width; for those who run it elsewhere."""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from taesd_core.checkpoint import Checkpoint
from taesd_core.layers import EPSILON, Block, Clamp, Convolution, Relu, Upsample
from taesd_core.tensors import ConvolutionTensors, NormTensors

OPERATOR_SET = 17
IR_VERSION = 8
"""Both as old as the operators allow, so that old readers can read it."""

Output = Literal["float32", "uint8"]


class _Graph:
    """Nodes and constants in order of execution; a map is known by the name of what made it."""

    def __init__(self, tensors: Iterator[ConvolutionTensors]) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.tensors = tensors

    def constant(self, values: Any) -> str:
        name = f"constant{len(self.constants)}"
        # ascontiguousarray alone makes a number a list of one.
        array = np.ascontiguousarray(values, np.float32).reshape(np.shape(values))
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def integers(self, values: list[int]) -> str:
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"map{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def convolve(self, x: str, convolution: Convolution) -> str:
        tensors = next(self.tensors)
        inputs = [x, self.constant(tensors.kernel.transpose(3, 2, 0, 1))]
        if tensors.bias is not None:
            inputs.append(self.constant(tensors.bias))
        x = self.add("Conv", *inputs, pads=[convolution.margin] * 4, strides=[convolution.stride] * 2)
        return x if tensors.norm is None else self.norm(x, tensors.norm, convolution.norm_groups)

    def norm(self, x: str, norm: NormTensors, groups: int) -> str:
        """Group norm: the norm of an instance over channels and pixels of a group, which older readers know too."""
        size = self.add("Shape", x)
        x = self.add("Reshape", x, self.integers([0, groups, -1]))
        ones = self.constant(np.ones(groups))
        x = self.add("InstanceNormalization", x, ones, self.constant(np.zeros(groups)), epsilon=EPSILON)
        x = self.add("Reshape", x, size)
        x = self.add("Mul", x, self.constant(norm.scale[:, None, None]))
        return self.add("Add", x, self.constant(norm.offset[:, None, None]))

    def block(self, x: str, block: Block) -> str:
        if block.pool is not None:
            y = x
            for number, convolution in enumerate(block.pool.convolutions):
                y = self.convolve(y if number == 0 else self.add("Relu", y), convolution)
            x = self.add("Add", x, y)
        y = x
        for number, convolution in enumerate(block.convolutions):
            y = self.convolve(y if number == 0 else self.add("Relu", y), convolution)
        return self.add("Relu", self.add("Add", y, x))


def build_onnx_model(
    checkpoint: Checkpoint, *, output: Output = "float32", size: tuple[int, int] | None = None
) -> ModelProto:
    """Return a part of an autoencoder as an ONNX model: the layers one by one, nothing folded.

    Args:
        checkpoint: the part.
        output: "float32" gives the values as they are, (batch, channels, height, width). "uint8" clips to [0, 1],
            scales to 255, rounds, and gives (batch, height, width, channels).
        size: fixed height and width of the input, a single one; by default all are free.
    """
    network = checkpoint.network
    graph = _Graph(iter(checkpoint.tensors))
    inputs, outputs = ("latents", "image") if checkpoint.part == "decoder" else ("image", "latents")
    x = inputs
    for layer in network.layers:
        if isinstance(layer, Clamp):
            x = graph.add("Mul", graph.add("Tanh", graph.add("Div", x, graph.constant(3))), graph.constant(3))
        elif isinstance(layer, Relu):
            x = graph.add("Relu", x)
        elif isinstance(layer, Upsample):
            how = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
            x = graph.add("Resize", x, "", graph.constant([1, 1, 2, 2]), **how)
        elif isinstance(layer, Convolution):
            x = graph.convolve(x, layer)
        elif isinstance(layer, Block):
            x = graph.block(x, layer)
    shape_in: list[Any] = ["batch", network.channels_in, *(size or (f"{inputs}_height", f"{inputs}_width"))]
    shape_out: list[Any] = ["batch", network.channels_out, f"{outputs}_height", f"{outputs}_width"]
    if size is not None:
        shape_in[0] = shape_out[0] = 1
        shape_out[2:] = (side * network.scale_out // network.scale_in for side in size)
    if output == "uint8":
        clipped = graph.add("Clip", x, graph.constant(0), graph.constant(1))
        x = graph.add("Round", graph.add("Mul", clipped, graph.constant(255)))
        graph.add("Transpose", graph.add("Cast", x, to=TensorProto.UINT8), perm=[0, 2, 3, 1])
        shape_out = [shape_out[0], *shape_out[2:], shape_out[1]]
    graph.nodes[-1].output[0] = outputs
    kind = TensorProto.UINT8 if output == "uint8" else TensorProto.FLOAT
    made = helper.make_graph(
        graph.nodes,
        checkpoint.part,
        [helper.make_tensor_value_info(inputs, TensorProto.FLOAT, shape_in)],
        [helper.make_tensor_value_info(outputs, kind, shape_out)],
        graph.constants,
        doc_string=f"family {checkpoint.family}; weights sha256 {checkpoint.sha256}; image in [0, 1], to be clipped",
    )
    return helper.make_model(
        made,
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPERATOR_SET)],
        producer_name="taesd-tiler",
    )


def list_operators(model: ModelProto) -> list[str]:
    """Return the operators that a model takes, each once."""
    return sorted({node.op_type for node in model.graph.node})
