package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Requests by hand, byte for byte, for what the DHT library itself would never send.
//
//	raw_rpc       request_hex, and peer_id for a new stream or stream for a held one
//	hold_stream   the same with peer_id and a name in stream: the stream stays open afterwards
//	close_stream  stream
//
// request_hex is one message and gets its length prefix here; with framed it goes out as it is.
// half_close ends our side after it; no_reply does not wait for an answer (ADD_PROVIDER has none).
// Both answer {"outcome": .., "reply_hex": ..}, outcome being reply, eof (a clean end), reset,
// timeout, or sent with no_reply. A peer's refusal is an outcome, not a failure of the command.

const maxReplyBytes = 4 << 20

type kadStream struct {
	mu     sync.Mutex // one request at a time: replies are matched by order
	stream network.Stream
	reader *bufio.Reader
}

type heldStreams struct {
	mu     sync.Mutex
	byName map[string]*kadStream
}

func (h *heldStreams) get(name string) (*kadStream, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s, held := h.byName[name]
	if !held {
		return nil, fmt.Errorf("no stream is held as %q", name)
	}
	return s, nil
}

func (h *heldStreams) put(name string, s *kadStream) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, held := h.byName[name]; held || name == "" {
		return fmt.Errorf("a new name is needed in stream, not %q", name)
	}
	if h.byName == nil {
		h.byName = map[string]*kadStream{}
	}
	h.byName[name] = s
	return nil
}

func (h *heldStreams) remove(name string) (*kadStream, error) {
	s, err := h.get(name)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.byName, name)
	return s, nil
}

func (h *heldStreams) closeAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.byName {
		_ = s.stream.Reset()
	}
	h.byName = nil
}

func rawRPC(ctx context.Context, n *node, a arguments) (fields, error) {
	if a.Stream != "" {
		s, err := n.streams.get(a.Stream)
		if err != nil {
			return nil, err
		}
		return s.exchange(ctx, a)
	}
	s, err := n.openKadStream(ctx, a.PeerID)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.stream.Close() }()
	return s.exchange(ctx, a)
}

func holdStream(ctx context.Context, n *node, a arguments) (fields, error) {
	s, err := n.openKadStream(ctx, a.PeerID)
	if err != nil {
		return nil, err
	}
	if err := n.streams.put(a.Stream, s); err != nil {
		return nil, errors.Join(err, s.stream.Reset())
	}
	return s.exchange(ctx, a)
}

func closeStream(_ context.Context, n *node, a arguments) (fields, error) {
	s, err := n.streams.remove(a.Stream)
	if err != nil {
		return nil, err
	}
	return nil, s.stream.Close()
}

func (n *node) openKadStream(ctx context.Context, id string) (*kadStream, error) {
	to, err := peer.Decode(id)
	if err != nil {
		return nil, err
	}
	stream, err := n.host.NewStream(ctx, to, kadProtocol)
	if err != nil {
		return nil, err
	}
	return &kadStream{stream: stream, reader: bufio.NewReader(stream)}, nil
}

func (s *kadStream) exchange(ctx context.Context, a arguments) (fields, error) {
	message, err := hex.DecodeString(a.RequestHex)
	if err != nil {
		return nil, err
	}
	if !a.Framed {
		message = append(binary.AppendUvarint(nil, uint64(len(message))), message...)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if deadline, set := ctx.Deadline(); set {
		_ = s.stream.SetDeadline(deadline)
		defer func() { _ = s.stream.SetDeadline(time.Time{}) }()
	}
	if _, err := s.stream.Write(message); err != nil {
		return outcome(err)
	}
	if a.HalfClose {
		if err := s.stream.CloseWrite(); err != nil {
			return outcome(err)
		}
	}
	if a.NoReply {
		return fields{"outcome": "sent"}, nil
	}
	reply, err := readFrame(s.reader)
	if err != nil {
		return outcome(err)
	}
	return fields{"outcome": "reply", "reply_hex": hex.EncodeToString(reply)}, nil
}

func readFrame(from *bufio.Reader) ([]byte, error) {
	length, err := binary.ReadUvarint(from)
	if err != nil {
		return nil, err
	}
	if length > maxReplyBytes {
		return nil, fmt.Errorf("a reply of %d bytes", length)
	}
	frame := make([]byte, length)
	_, err = io.ReadFull(from, frame)
	return frame, err
}

// outcome is how the peer ended the exchange, where it did not answer.
func outcome(err error) (fields, error) {
	switch {
	case errors.Is(err, io.EOF):
		return fields{"outcome": "eof"}, nil
	case errors.Is(err, network.ErrReset):
		return fields{"outcome": "reset"}, nil
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return fields{"outcome": "timeout"}, nil
	}
	return nil, err
}
