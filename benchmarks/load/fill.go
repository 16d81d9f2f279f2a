package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/bits"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

const (
	bucketSize    = 20
	toldPeers     = 3 // in each answer of a filler: one that knows nobody is no use to a server
	firstFakePort = 20000
	identifiedBy  = time.Second // from the last connection
)

// fill connects servers to the target until its routing table can hold -peers of them: up to 20 for
// each common prefix length, which every implementation has room for.
func fill(arguments []string) error {
	flags, c := newFlags("fill")
	count := flags.Int("peers", 95, "how many")
	_ = flags.Parse(arguments)
	server, addr, err := c.server()
	if err != nil {
		return err
	}

	var fillers []*client
	byPrefix := map[int]int{}
	for len(fillers) < *count {
		key, err := newKey()
		if err != nil {
			return err
		}
		one, err := newClient(key)
		if err != nil {
			return err
		}
		if prefix := commonPrefix(one.id, server); byPrefix[prefix] < bucketSize {
			byPrefix[prefix]++
			fillers = append(fillers, one)
		}
	}
	for i, one := range fillers {
		fake := fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", firstFakePort+i)
		one.listensOn = []multiaddr.Multiaddr{multiaddr.StringCast(fake)}
	}
	failures := map[string]int{}
	var connected []*client
	for i, one := range fillers {
		others := slices.Concat(fillers[i+1:], fillers[:i])[:min(toldPeers, len(fillers)-1)]
		one.answerKad = func(asked []byte) []byte { return tell(asked, others) }
		err := one.connect(server, addr)
		if err == nil {
			_, err = one.askOnce(request(findNode, randomPeerID()))
		}
		if err != nil {
			failures[err.Error()]++
		} else {
			connected = append(connected, one)
		}
	}
	time.Sleep(identifiedBy)
	for _, one := range connected { // py-libp2p takes in nobody at his first request, unidentified
		if _, err := one.askOnce(request(findNode, randomPeerID())); err != nil {
			failures[err.Error()]++
		}
	}
	say(fields{"peers": len(connected), "failures": failures})
	untilStdinEnds(context.Background())
	return nil
}

// tell answers any request with its own type and these peers.
func tell(asked []byte, peers []*client) []byte {
	kind := byte(0)
	if len(asked) > 1 && asked[0] == typeField {
		kind = asked[1]
	}
	reply := []byte{typeField, kind}
	for _, one := range peers {
		entry := field(field(nil, idField, []byte(one.id)), addrField, one.listensOn[0].Bytes())
		reply = field(reply, closerField, entry)
	}
	return reply
}

func commonPrefix(a, b peer.ID) int {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	for i := range x {
		if x[i] != y[i] {
			return i*8 + bits.LeadingZeros8(x[i]^y[i])
		}
	}
	return len(x) * 8
}
