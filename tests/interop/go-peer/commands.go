package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
)

const defaultCommandTimeout = 30 * time.Second

// arguments of all commands; each reads its own.
type arguments struct {
	Addr       string `json:"addr"`
	PeerID     string `json:"peer_id"`
	CID        string `json:"cid"`
	Count      int    `json:"count"`
	Key        string `json:"key"` // text, for values
	KeyHex     string `json:"key_hex"`
	ValueHex   string `json:"value_hex"`
	RequestHex string `json:"request_hex"`
	Stream     string `json:"stream"`
	Framed     bool   `json:"framed"`
	HalfClose  bool   `json:"half_close"`
	NoReply    bool   `json:"no_reply"`
	Path       string `json:"path"`
	Sequence   uint64 `json:"sequence"`
}

type fields = map[string]any

type command func(ctx context.Context, n *node, a arguments) (fields, error)

// commands is everything that can be asked, with its arguments and what it answers.
var commands = map[string]command{
	"connect":        connect,       // addr
	"disconnect":     disconnect,    // peer_id
	"find_peer":      findPeer,      // peer_id -> peer_id, addrs
	"get_closest":    getClosest,    // key_hex or peer_id -> peers, nearest first
	"provide":        provide,       // cid
	"find_providers": findProviders, // cid, count (0: all) -> providers
	"put_value":      putValue,      // key or key_hex, value_hex
	"get_value":      getValue,      // key or key_hex -> value_hex
	"publish_name":   publishName,   // path, sequence; the node's own name (names.go)
	"resolve_name":   resolveName,   // peer_id -> path
	"search_value":   searchValue,   // key or key_hex -> values: value_hex and s, as they come
	"routing_table":  routingTable,  // -> peers
	"refresh":        refresh,       // all of the routing table, and waits for it
	"peers":          peers,         // -> peers that are connected
	"protocols":      protocols,     // peer_id -> protocols, agent, addrs, connections
	"ping":           pingPeer,      // peer_id -> rtt_ms
	"raw_rpc":        rawRPC,        // see streams.go
	"hold_stream":    holdStream,
	"close_stream":   closeStream,
}

func (s *swarm) answer(ctx context.Context, r request) answer {
	started := time.Now()
	result, err := s.execute(ctx, r)
	line := answer{ID: r.ID, OK: err == nil, ElapsedMS: float64(time.Since(started).Microseconds()) / 1000}
	if err != nil {
		line.Error = err.Error()
		return line
	}
	if result == nil {
		result = fields{}
	}
	line.Result = result
	return line
}

func (s *swarm) execute(ctx context.Context, r request) (fields, error) {
	run, known := commands[r.Command]
	if !known {
		return nil, fmt.Errorf("unknown command %q", r.Command)
	}
	if r.Peer < 0 || r.Peer >= len(s.nodes) {
		return nil, fmt.Errorf("no node %d: there are %d", r.Peer, len(s.nodes))
	}
	var a arguments
	if len(r.Args) > 0 {
		if err := json.Unmarshal(r.Args, &a); err != nil {
			return nil, err
		}
	}
	timeout := defaultCommandTimeout
	if r.TimeoutS > 0 {
		timeout = time.Duration(r.TimeoutS * float64(time.Second))
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return run(ctx, s.nodes[r.Peer], a)
}

func connect(ctx context.Context, n *node, a arguments) (fields, error) {
	return nil, n.connect(ctx, a.Addr)
}

func disconnect(_ context.Context, n *node, a arguments) (fields, error) {
	id, err := peer.Decode(a.PeerID)
	if err != nil {
		return nil, err
	}
	return nil, n.host.Network().ClosePeer(id)
}

func findPeer(ctx context.Context, n *node, a arguments) (fields, error) {
	id, err := peer.Decode(a.PeerID)
	if err != nil {
		return nil, err
	}
	found, err := n.dht.FindPeer(ctx, id)
	if err != nil {
		return nil, err
	}
	return describePeer(found), nil
}

func getClosest(ctx context.Context, n *node, a arguments) (fields, error) {
	key, err := a.lookupKey()
	if err != nil {
		return nil, err
	}
	closest, err := n.dht.GetClosestPeers(ctx, key)
	if err != nil {
		return nil, err
	}
	return fields{"peers": idTexts(closest)}, nil
}

func provide(ctx context.Context, n *node, a arguments) (fields, error) {
	c, err := cid.Decode(a.CID)
	if err != nil {
		return nil, err
	}
	return nil, n.dht.Provide(ctx, c, true)
}

func findProviders(ctx context.Context, n *node, a arguments) (fields, error) {
	c, err := cid.Decode(a.CID)
	if err != nil {
		return nil, err
	}
	providers := []fields{}
	for found := range n.dht.FindProvidersAsync(ctx, c, a.Count) {
		providers = append(providers, describePeer(found))
	}
	return fields{"providers": providers}, nil
}

func putValue(ctx context.Context, n *node, a arguments) (fields, error) {
	key, err := a.recordKey()
	if err != nil {
		return nil, err
	}
	value, err := hex.DecodeString(a.ValueHex)
	if err != nil {
		return nil, err
	}
	return nil, n.dht.PutValue(ctx, key, value)
}

func getValue(ctx context.Context, n *node, a arguments) (fields, error) {
	key, err := a.recordKey()
	if err != nil {
		return nil, err
	}
	value, err := n.dht.GetValue(ctx, key)
	if err != nil {
		return nil, err
	}
	return fields{"value_hex": hex.EncodeToString(value)}, nil
}

func searchValue(ctx context.Context, n *node, a arguments) (fields, error) {
	key, err := a.recordKey()
	if err != nil {
		return nil, err
	}
	started := time.Now()
	found, err := n.dht.SearchValue(ctx, key)
	if err != nil {
		return nil, err
	}
	values := []fields{}
	for value := range found {
		values = append(values, fields{"value_hex": hex.EncodeToString(value), "s": time.Since(started).Seconds()})
	}
	return fields{"values": values}, nil
}

func routingTable(_ context.Context, n *node, _ arguments) (fields, error) {
	return fields{"peers": idTexts(n.dht.RoutingTable().ListPeers())}, nil
}

func refresh(ctx context.Context, n *node, _ arguments) (fields, error) {
	select {
	case err := <-n.dht.ForceRefresh():
		return nil, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func peers(_ context.Context, n *node, _ arguments) (fields, error) {
	return fields{"peers": idTexts(n.host.Network().Peers())}, nil
}

func protocols(_ context.Context, n *node, a arguments) (fields, error) {
	id, err := peer.Decode(a.PeerID)
	if err != nil {
		return nil, err
	}
	book := n.host.Peerstore()
	spoken, err := book.GetProtocols(id)
	if err != nil {
		return nil, err
	}
	agent, err := book.Get(id, "AgentVersion")
	if err != nil {
		agent = ""
	}
	connections := []fields{}
	for _, c := range n.host.Network().ConnsToPeer(id) {
		state := c.ConnState()
		connections = append(connections, fields{
			"addr":     c.RemoteMultiaddr().String(),
			"inbound":  c.Stat().Direction == network.DirInbound,
			"muxer":    state.StreamMultiplexer,
			"security": state.Security,
			"streams":  len(c.GetStreams()),
		})
	}
	known := describePeer(book.PeerInfo(id))
	return fields{"protocols": spoken, "agent": agent, "addrs": known["addrs"], "connections": connections}, nil
}

func pingPeer(ctx context.Context, n *node, a arguments) (fields, error) {
	id, err := peer.Decode(a.PeerID)
	if err != nil {
		return nil, err
	}
	select {
	case pong := <-ping.Ping(ctx, n.host, id):
		return fields{"rtt_ms": float64(pong.RTT.Microseconds()) / 1000}, pong.Error
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// lookupKey is what a lookup aims at: the bytes of a peer id, or any bytes.
func (a arguments) lookupKey() (string, error) {
	if a.PeerID == "" {
		return a.recordKey()
	}
	id, err := peer.Decode(a.PeerID)
	return string(id), err
}

func (a arguments) recordKey() (string, error) {
	if a.Key != "" {
		return a.Key, nil
	}
	key, err := hex.DecodeString(a.KeyHex)
	if err == nil && len(key) == 0 {
		err = errors.New("no key given")
	}
	return string(key), err
}

func describePeer(info peer.AddrInfo) fields {
	addrs := []string{}
	for _, addr := range info.Addrs {
		addrs = append(addrs, addr.String())
	}
	return fields{"peer_id": info.ID.String(), "addrs": addrs}
}

func idTexts(ids []peer.ID) []string {
	texts := []string{}
	for _, id := range ids {
		texts = append(texts, id.String())
	}
	return texts
}
