"""The messages of `inference.GRPCInferenceService`, built from a table instead of from generated code.

Source: the gRPC section of the "Open Inference Protocol" (KServe's predict protocol version 2) and of its model repository
extension. Names and numbers of fields are the protocol's; messages that it nests in others stand beside them here, which the wire
does not show. They have a pool of their own, so a program that also loads somebody's generated code for the protocol is not disturbed.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "inference.GRPCInferenceService"
# a message a line: fields as name:type=number, * for repeated, {} for a map from texts; one_of names the fields of which one is set
_TABLE = """
ServerLiveRequest
ServerLiveResponse live:bool=1
ServerReadyRequest
ServerReadyResponse ready:bool=1
ModelReadyRequest name:string=1 version:string=2
ModelReadyResponse ready:bool=1
ServerMetadataRequest
ServerMetadataResponse name:string=1 version:string=2 extensions:string*=3
ModelMetadataRequest name:string=1 version:string=2
TensorMetadata name:string=1 datatype:string=2 shape:int64*=3
ModelMetadataResponse name:string=1 versions:string*=2 platform:string=3 inputs:TensorMetadata*=4 outputs:TensorMetadata*=5
InferParameter one_of bool_param:bool=1 int64_param:int64=2 string_param:string=3 double_param:double=4 uint64_param:uint64=5
InferTensorContents bool_contents:bool*=1 int_contents:int32*=2 int64_contents:int64*=3 uint_contents:uint32*=4 uint64_contents:uint64*=5 \
fp32_contents:float*=6 fp64_contents:double*=7 bytes_contents:bytes*=8
InferInputTensor name:string=1 datatype:string=2 shape:int64*=3 parameters:InferParameter{}=4 contents:InferTensorContents=5
InferRequestedOutputTensor name:string=1 parameters:InferParameter{}=2
ModelInferRequest model_name:string=1 model_version:string=2 id:string=3 parameters:InferParameter{}=4 inputs:InferInputTensor*=5 \
outputs:InferRequestedOutputTensor*=6 raw_input_contents:bytes*=7
InferOutputTensor name:string=1 datatype:string=2 shape:int64*=3 parameters:InferParameter{}=4 contents:InferTensorContents=5
ModelInferResponse model_name:string=1 model_version:string=2 id:string=3 parameters:InferParameter{}=4 outputs:InferOutputTensor*=5 \
raw_output_contents:bytes*=6
RepositoryIndexRequest repository_name:string=1 ready:bool=2
ModelIndex name:string=1 version:string=2 state:string=3 reason:string=4
RepositoryIndexResponse models:ModelIndex*=1
RepositoryModelLoadRequest repository_name:string=1 model_name:string=2
RepositoryModelLoadResponse
RepositoryModelUnloadRequest repository_name:string=1 model_name:string=2
RepositoryModelUnloadResponse
"""
_SCALARS = {"double": 1, "float": 2, "int64": 3, "uint64": 4, "int32": 5, "bool": 8, "string": 9, "bytes": 12, "uint32": 13}
_MESSAGE, _OPTIONAL, _REPEATED = 11, 1, 3


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="tidemill/inference.proto", package="inference", syntax="proto3")
    for line in _TABLE.strip().splitlines():
        name, *fields = line.split()
        message = file.message_type.add(name=name)
        if fields[:1] == ["one_of"]:
            message.oneof_decl.add(name="parameter_choice")
        for text in fields:
            if text != "one_of":
                _field(message, text)
    return file


def _field(message: descriptor_pb2.DescriptorProto, text: str) -> None:
    left, _, number = text.partition("=")
    name, _, kind = left.partition(":")
    field = message.field.add(name=name, number=int(number), label=_REPEATED if kind[-1] in "*}" else _OPTIONAL)
    if kind.endswith("{}"):
        entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
        entry.options.map_entry = True
        for what in ("key:string=1", f"value:{kind[:-2]}=2"):
            _field(entry, what)
        field.type, field.type_name = _MESSAGE, f".inference.{message.name}.{entry.name}"
        return
    kind = kind.rstrip("*")
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type, field.type_name = _MESSAGE, f".inference.{kind}"
    if len(message.oneof_decl):
        field.oneof_index = 0


_pool = descriptor_pool.DescriptorPool()
_pool.Add(_file())


def message(name: str) -> Any:
    """The class of a message of the protocol, by its name."""
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"inference.{name}"))
