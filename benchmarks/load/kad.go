package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Messages of the DHT, by hand: the client must cost little, or it is the client that is measured.

const (
	addProvider  = 2
	getProviders = 3
	findNode     = 4

	typeField   = 1<<3 | 0
	keyField    = 2<<3 | 2
	closerField = 8<<3 | 2
	peersField  = 9<<3 | 2 // providers
	idField     = 1<<3 | 2 // of a peer
	addrField   = 2<<3 | 2

	maxReplyBytes = 4 << 20
)

type kadStream struct {
	network.MuxedStream
	negotiated io.ReadWriter
	reader     *bufio.Reader
}

func (s *kadStream) send(frames []byte) error {
	_, err := s.negotiated.Write(frames)
	return err
}

// receive is the next reply to a request; py-libp2p also answers ADD_PROVIDER, which has none.
func (s *kadStream) receive() ([]byte, error) {
	for {
		reply, err := readFrame(s.reader)
		if err != nil || len(reply) < 2 || reply[0] != typeField || reply[1] != addProvider {
			return reply, err
		}
	}
}

func readFrame(from *bufio.Reader) ([]byte, error) {
	length, err := binary.ReadUvarint(from)
	if err != nil {
		return nil, err
	}
	if length > maxReplyBytes {
		return nil, fmt.Errorf("a frame of %d bytes", length)
	}
	frame := make([]byte, length)
	_, err = io.ReadFull(from, frame)
	return frame, err
}

func framed(message []byte) []byte {
	return append(binary.AppendUvarint(make([]byte, 0, len(message)+2), uint64(len(message))), message...)
}

func field(to []byte, tag byte, value []byte) []byte {
	return append(binary.AppendUvarint(append(to, tag), uint64(len(value))), value...)
}

func request(kind byte, key []byte) []byte {
	return field([]byte{typeField, kind}, keyField, key)
}

// announcement is ADD_PROVIDER of key by a peer at one address.
func announcement(key []byte, provider peer.ID, addr []byte) []byte {
	entry := field(field(nil, idField, []byte(provider)), addrField, addr)
	return field(request(addProvider, key), peersField, entry)
}

// randomPeerID is that of nobody; randomMultihash the SHA-256 of nothing. Both have their prefix.
func randomPeerID() []byte    { return random([]byte{0x00, 0x24, 0x08, 0x01, 0x12, 0x20}) }
func randomMultihash() []byte { return random([]byte{0x12, 0x20}) }

func random(prefix []byte) []byte {
	key := append(prefix, make([]byte, 32)...)
	_, _ = rand.Read(key[len(prefix):])
	return key
}

// peersIn counts the entries of a field of a message.
func peersIn(message []byte, tag byte) (count int, err error) {
	for len(message) > 0 {
		this, n := binary.Uvarint(message)
		if n <= 0 {
			return 0, io.ErrUnexpectedEOF
		}
		value, m := binary.Uvarint(message[n:])
		if m <= 0 {
			return 0, io.ErrUnexpectedEOF
		}
		message = message[n+m:]
		if this&7 == 2 {
			if value > uint64(len(message)) {
				return 0, io.ErrUnexpectedEOF
			}
			message = message[value:]
		}
		if this == uint64(tag) {
			count++
		}
	}
	return count, nil
}

func names(reply []byte, id peer.ID) bool { return bytes.Contains(reply, []byte(id)) }
