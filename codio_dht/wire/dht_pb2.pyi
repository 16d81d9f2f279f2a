from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MessageType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PUT_VALUE: _ClassVar[MessageType]
    GET_VALUE: _ClassVar[MessageType]
    ADD_PROVIDER: _ClassVar[MessageType]
    GET_PROVIDERS: _ClassVar[MessageType]
    FIND_NODE: _ClassVar[MessageType]
    PING: _ClassVar[MessageType]

class ConnectionType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NOT_CONNECTED: _ClassVar[ConnectionType]
    CONNECTED: _ClassVar[ConnectionType]
    CAN_CONNECT: _ClassVar[ConnectionType]
    CANNOT_CONNECT: _ClassVar[ConnectionType]
PUT_VALUE: MessageType
GET_VALUE: MessageType
ADD_PROVIDER: MessageType
GET_PROVIDERS: MessageType
FIND_NODE: MessageType
PING: MessageType
NOT_CONNECTED: ConnectionType
CONNECTED: ConnectionType
CAN_CONNECT: ConnectionType
CANNOT_CONNECT: ConnectionType

class Record(_message.Message):
    __slots__ = ("key", "value", "timeReceived")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    TIMERECEIVED_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    value: bytes
    timeReceived: str
    def __init__(self, key: _Optional[bytes] = ..., value: _Optional[bytes] = ..., timeReceived: _Optional[str] = ...) -> None: ...

class Peer(_message.Message):
    __slots__ = ("id", "addrs", "connection")
    ID_FIELD_NUMBER: _ClassVar[int]
    ADDRS_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    addrs: _containers.RepeatedScalarFieldContainer[bytes]
    connection: ConnectionType
    def __init__(self, id: _Optional[bytes] = ..., addrs: _Optional[_Iterable[bytes]] = ..., connection: _Optional[_Union[ConnectionType, str]] = ...) -> None: ...

class Message(_message.Message):
    __slots__ = ("type", "key", "record", "closerPeers", "providerPeers", "clusterLevelRaw")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    CLOSERPEERS_FIELD_NUMBER: _ClassVar[int]
    PROVIDERPEERS_FIELD_NUMBER: _ClassVar[int]
    CLUSTERLEVELRAW_FIELD_NUMBER: _ClassVar[int]
    type: MessageType
    key: bytes
    record: Record
    closerPeers: _containers.RepeatedCompositeFieldContainer[Peer]
    providerPeers: _containers.RepeatedCompositeFieldContainer[Peer]
    clusterLevelRaw: int
    def __init__(self, type: _Optional[_Union[MessageType, str]] = ..., key: _Optional[bytes] = ..., record: _Optional[_Union[Record, _Mapping]] = ..., closerPeers: _Optional[_Iterable[_Union[Peer, _Mapping]]] = ..., providerPeers: _Optional[_Iterable[_Union[Peer, _Mapping]]] = ..., clusterLevelRaw: _Optional[int] = ...) -> None: ...

class ShallowMessage(_message.Message):
    __slots__ = ("type", "key", "record", "closerPeers", "providerPeers", "clusterLevelRaw")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    CLOSERPEERS_FIELD_NUMBER: _ClassVar[int]
    PROVIDERPEERS_FIELD_NUMBER: _ClassVar[int]
    CLUSTERLEVELRAW_FIELD_NUMBER: _ClassVar[int]
    type: MessageType
    key: bytes
    record: Record
    closerPeers: _containers.RepeatedScalarFieldContainer[bytes]
    providerPeers: _containers.RepeatedScalarFieldContainer[bytes]
    clusterLevelRaw: int
    def __init__(self, type: _Optional[_Union[MessageType, str]] = ..., key: _Optional[bytes] = ..., record: _Optional[_Union[Record, _Mapping]] = ..., closerPeers: _Optional[_Iterable[bytes]] = ..., providerPeers: _Optional[_Iterable[bytes]] = ..., clusterLevelRaw: _Optional[int] = ...) -> None: ...
