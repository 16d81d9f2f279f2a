package main

import (
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// arrival is one request, when it reached its server.
type arrival struct {
	server    *server
	kind, key string
	at        time.Time
}

// within is whether it left the client after `start` and its reply was there before `end`.
func (a arrival) within(start, end time.Time) bool {
	return a.at.Add(-a.server.delay).After(start) && a.at.Add(a.server.delay).Before(end)
}

// account is what one client did.
type account struct {
	connections []*connection
	requests    []arrival
	first, last time.Time // of its connections and requests
}

// place is where a proxy's connection arrives at a server's host.
type place struct {
	server *server
	port   int
}

// ledger keeps the accounts. A client is known by its peer id, so any number may be at work.
type ledger struct {
	mu       sync.Mutex
	accounts map[peer.ID]*account
	unknown  map[place]*connection // those whose handshake is not over
}

func newLedger() *ledger {
	return &ledger{accounts: map[peer.ID]*account{}, unknown: map[place]*connection{}}
}

func (l *ledger) opened(port int, c *connection) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unknown[place{c.server, port}] = c
}

// identified is told by a server's host who the other end of a connection is.
func (l *ledger) identified(n *server, from ma.Multiaddr, client peer.ID) {
	port, err := tcpPort(from)
	if err != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	where := place{n, port}
	c, known := l.unknown[where]
	if !known {
		return
	}
	delete(l.unknown, where)
	c.client.Store(&client)
	a := l.account(client)
	a.connections = append(a.connections, c)
	a.saw(time.Now())
}

func (l *ledger) requested(n *server, client peer.ID, kind string, key []byte) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.account(client)
	a.requests = append(a.requests, arrival{n, kind, string(key), now})
	a.saw(now)
}

func (l *ledger) account(client peer.ID) *account {
	a, known := l.accounts[client]
	if !known {
		a = &account{}
		l.accounts[client] = a
	}
	return a
}

func (a *account) saw(now time.Time) {
	if a.first.IsZero() {
		a.first = now
	}
	a.last = now
}

// heardBy is when the client last heard of each server until then, by that server's bytes.
func (a *account) heardBy(then time.Time) map[*server]time.Time {
	latest := map[*server]time.Time{}
	for _, c := range a.connections {
		if at := c.heardBy(then); at.After(latest[c.server]) {
			latest[c.server] = at
		}
	}
	return latest
}

// watch has the ledger told of the connections of a server's host.
func (l *ledger) watch(n *server) {
	n.host.Network().Notify(&network.NotifyBundle{
		ConnectedF: func(_ network.Network, c network.Conn) {
			l.identified(n, c.RemoteMultiaddr(), c.RemotePeer())
		},
	})
}
