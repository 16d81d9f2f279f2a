package main

import (
	"encoding/json"
	"io"
	"sync"
)

// The lines. Bytes travel as lower-case hex, peers as base58 text, addresses as multiaddr text.
//
//	first line out   {"ready": true, "implementation": "go", "peers": [{"peer_id": .., "addrs": [..]}]}
//	in               {"id": 1, "peer": 0, "command": "ping", "timeout_s": 10, "args": {..}}
//	out, any order   {"id": 1, "ok": true, "elapsed_ms": 1.5, "result": {..}}
//	                 {"id": 1, "ok": false, "elapsed_ms": 1.5, "error": ".."}

type readyLine struct {
	Ready          bool       `json:"ready"`
	Implementation string     `json:"implementation"`
	Peers          []peerLine `json:"peers"`
}

type peerLine struct {
	PeerID string   `json:"peer_id"`
	Addrs  []string `json:"addrs"`
}

type request struct {
	ID       int             `json:"id"`
	Peer     int             `json:"peer"` // which node of this process
	Command  string          `json:"command"`
	TimeoutS float64         `json:"timeout_s"`
	Args     json.RawMessage `json:"args"`
}

type answer struct {
	ID        int     `json:"id"`
	OK        bool    `json:"ok"`
	ElapsedMS float64 `json:"elapsed_ms"`
	Error     string  `json:"error,omitempty"`
	Result    any     `json:"result,omitempty"`
}

// writer puts whole lines on one stream, from any goroutine.
type writer struct {
	mu      sync.Mutex
	encoder *json.Encoder
}

func newWriter(to io.Writer) *writer { return &writer{encoder: json.NewEncoder(to)} }

func (w *writer) write(line any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = w.encoder.Encode(line) // the test is gone: stdin ends too
}
