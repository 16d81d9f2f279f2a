package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
)

const (
	maxLine = 1 << 20
	// A record's provider is known at its holders for the length of a run.
	providerAddrTTL = peerstore.PermanentAddrTTL
)

type fields = map[string]any

// request is a line; each command reads its own fields. Times are Unix seconds, keys are hex.
type request struct {
	Command string   `json:"command"`
	Client  string   `json:"client"`
	Key     string   `json:"key"`
	Start   float64  `json:"start"` // of the operation
	End     float64  `json:"end"`
	Peers   []string `json:"peers"`
	Value   string   `json:"value"`
	Index   int      `json:"index"`
	Count   int      `json:"count"`
}

type command func(s *swarm, r request, key []byte, client peer.ID) (fields, error)

var commands = map[string]command{
	"closest":   closest,     // key -> peers: the living ones closest to it; addrs of the same
	"place":     placeRecord, // key, index -> provider: its record is at the living closest
	"store":     storeValue,  // key, value, peers: the servers that hold it from now on
	"puts":      putsOf,      // key, client -> peers it put a value of the key to, arrived, among_closest
	"holders":   holders,     // key, client -> holders of its record, holders_among_closest
	"account":   accountOf,   // client -> what it did since it came
	"operation": operation,   // client, key, start, end, peers -> requests for that key, marks of peers
	"lines":     lines,       // count -> some servers of each state, to try what they are like
	"usage":     usage,       // -> memory of this process
}

func (s *swarm) answer(line []byte) fields {
	var r request
	if err := json.Unmarshal(line, &r); err != nil {
		return fields{"error": err.Error()}
	}
	run, known := commands[r.Command]
	if !known {
		return fields{"error": fmt.Sprintf("unknown command %q", r.Command)}
	}
	key, err := hex.DecodeString(r.Key)
	if err != nil {
		return fields{"error": err.Error()}
	}
	var client peer.ID
	if r.Client != "" {
		if client, err = peer.Decode(r.Client); err != nil {
			return fields{"error": err.Error()}
		}
	}
	result, err := run(s, r, key, client)
	if err != nil {
		return fields{"error": err.Error()}
	}
	return result
}

func (s *swarm) describe() fields {
	states := map[state]int{living: 0, slow: 0, refusing: 0, blackhole: 0}
	sizes, rtts := []int{}, []float64{}
	for _, n := range s.servers {
		states[n.state]++
		if !n.dead() {
			sizes = append(sizes, n.dht.RoutingTable().Size())
			rtts = append(rtts, milliseconds(n.rtt()))
		}
	}
	slices.Sort(sizes)
	slices.Sort(rtts)
	addrs := []string{}
	for _, n := range s.servers[:min(bootstrapServers, len(s.servers))] {
		addrs = append(addrs, n.fullAddr())
	}
	return fields{
		"ready": true, "gates": s.gates != nil, "bootstrap": addrs, "servers": states, "start_s": s.took.Seconds(),
		"median_table_size": sizes[len(sizes)/2], "median_rtt_ms": rtts[len(rtts)/2], "rss_mib": rssMiB(),
	}
}

func closest(s *swarm, _ request, key []byte, _ peer.ID) (fields, error) {
	found := s.closest(key)
	addrs := []string{}
	for _, n := range found {
		addrs = append(addrs, n.fullAddr())
	}
	return fields{"peers": idTexts(found), "addrs": addrs}, nil
}

// placeRecord puts a record of the living server that index names where a perfect provide would.
func placeRecord(s *swarm, r request, key []byte, _ peer.ID) (fields, error) {
	provider := s.servers[r.Index%len(s.servers)]
	for i := r.Index; provider.dead(); i++ {
		provider = s.servers[i%len(s.servers)]
	}
	info := peer.AddrInfo{ID: provider.id, Addrs: provider.host.Addrs()}
	for _, n := range s.closest(key) {
		if n != provider {
			n.host.Peerstore().AddAddrs(info.ID, info.Addrs, providerAddrTTL)
		}
		if err := n.dht.ProviderStore().AddProvider(context.Background(), key, info); err != nil {
			return nil, err
		}
	}
	return fields{"provider": provider.id.String()}, nil
}

func holders(s *swarm, _ request, key []byte, client peer.ID) (fields, error) {
	best := s.closest(key)
	all, among := 0, 0
	for _, n := range s.servers {
		if n.dead() {
			continue
		}
		providers, err := n.dht.ProviderStore().GetProviders(context.Background(), key)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(providers, func(p peer.AddrInfo) bool { return p.ID == client }) {
			all++
			if slices.Contains(best, n) {
				among++
			}
		}
	}
	return fields{"holders": all, "among_closest": among}, nil
}

func accountOf(s *swarm, _ request, _ []byte, client peer.ID) (fields, error) {
	s.book.mu.Lock()
	defer s.book.mu.Unlock()
	a := s.book.account(client)
	var up, down int64
	reached := map[*server]bool{}
	for _, c := range a.connections {
		up += c.up.Load()
		down += c.down.Load()
		reached[c.server] = true
	}
	byType := map[string]int{}
	for _, one := range a.requests {
		byType[one.kind]++
	}
	return fields{
		"requests": len(a.requests), "by_type": byType, "connections": len(a.connections),
		"servers_reached": len(reached), "bytes_sent": up, "bytes_received": down,
		"first": unixSeconds(a.first), "last": unixSeconds(a.last),
	}, nil
}

// operation says what a client's operation cost, and of each peer it returned what the client could
// know: "answered" (a request left and its reply arrived while the operation ran), "alive"
// (it heard from the peer, so many seconds before the end), or "heard" (of it by others alone). To
// be asked some seconds after the operation: a slow server learns who its client is long after the
// client has heard from it.
func operation(s *swarm, r request, key []byte, client peer.ID) (fields, error) {
	s.book.mu.Lock()
	defer s.book.mu.Unlock()
	a := s.book.account(client)
	start, end := fromUnix(r.Start), fromUnix(r.End)
	answered, asked := map[*server]bool{}, map[*server]bool{}
	byType := map[string]int{}
	for _, one := range a.requests {
		if one.key == string(key) {
			byType[one.kind]++
			asked[one.server] = true
		}
		if one.within(start, end) {
			answered[one.server] = true
		}
	}
	heard := a.heardBy(end)
	marks := []fields{}
	for _, text := range r.Peers {
		id, err := peer.Decode(text)
		if err != nil {
			return nil, err
		}
		n, known := s.byID[id]
		mark := fields{"mark": "heard", "state": "unknown"}
		if known {
			mark["state"] = n.state
			if at, was := heard[n]; answered[n] {
				mark["mark"] = "answered"
			} else if was {
				mark["mark"], mark["age_s"] = "alive", end.Sub(at).Seconds()
			}
		}
		marks = append(marks, mark)
	}
	return fields{"by_type": byType, "servers_asked": len(asked), "marks": marks}, nil
}

func lines(s *swarm, r request, _ []byte, _ peer.ID) (fields, error) {
	some := map[state][]fields{}
	for _, n := range s.servers {
		if len(some[n.state]) < r.Count {
			port, err := tcpPort(n.addr)
			if err != nil {
				return nil, err
			}
			some[n.state] = append(some[n.state], fields{"port": port, "rtt_ms": milliseconds(n.rtt())})
		}
	}
	return fields{"servers": some}, nil
}

func usage(s *swarm, _ request, _ []byte, _ peer.ID) (fields, error) {
	s.book.mu.Lock()
	defer s.book.mu.Unlock()
	return fields{"rss_mib": rssMiB(), "unknown_connections": len(s.book.unknown)}, nil
}

func idTexts(servers []*server) []string {
	texts := []string{}
	for _, n := range servers {
		texts = append(texts, n.id.String())
	}
	return texts
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func unixSeconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixNano()) / float64(time.Second)
}

func fromUnix(seconds float64) time.Time {
	return time.Unix(0, int64(seconds*float64(time.Second)))
}
