package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

const (
	sampleEvery    = 64 // replies of which one is taken apart
	checkedRecords = 64
)

// operations are what can be asked, each with the key that its worker drew. add is ADD_PROVIDER,
// which has no answer, and behind it GET_PROVIDERS of the same key, which comes after it; the two
// count as one request.
var operations = map[string]func(l *load, key []byte) []byte{
	"find_node":     func(_ *load, key []byte) []byte { return framed(request(findNode, key)) },
	"get_providers": func(_ *load, key []byte) []byte { return framed(request(getProviders, key)) },
	"add": func(l *load, key []byte) []byte {
		add := framed(announcement(key, l.client.id, l.addr))
		return append(add, framed(request(getProviders, key))...)
	},
}

// load is one run of requests.
type load struct {
	client    *client
	addr      []byte // where the client says that it provides
	operation string
	newStream bool

	mu        sync.Mutex
	latencies []time.Duration
	failures  map[string]int
	added     [][]byte // some of the keys announced
	closer    int      // peers in the replies taken apart
	sampled   int
}

func rpc(arguments []string) error {
	flags, c := newFlags("rpc")
	l := &load{failures: map[string]int{}}
	flags.StringVar(&l.operation, "op", "find_node", "find_node, get_providers or add")
	flags.BoolVar(&l.newStream, "new-stream", false, "a stream for every request")
	inFlight := flags.Int("in-flight", 8, "requests at a time, each on a stream of its own")
	seconds := flags.Float64("seconds", 3, "how long to measure")
	warmUp := flags.Float64("warm-up", 0.5, "seconds of the same before")
	_ = flags.Parse(arguments)
	if operations[l.operation] == nil {
		return fmt.Errorf("-op %q is not known", l.operation)
	}

	server, addr, err := c.server()
	if err != nil {
		return err
	}
	l.addr = multiaddr.StringCast("/ip4/127.0.0.1/tcp/4001").Bytes()
	if l.client, err = newConnected(server, addr); err != nil {
		return err
	}
	defer func() { _ = l.client.connection.Close() }()

	l.run(*inFlight, time.Duration(*warmUp*float64(time.Second)))
	l.latencies, l.failures, l.added = nil, map[string]int{}, nil
	before, err := usageOf(c.pid)
	if err != nil {
		return err
	}
	took := l.run(*inFlight, time.Duration(*seconds*float64(time.Second)))
	after, err := usageOf(c.pid)
	if err != nil {
		return err
	}
	line := l.report(took, before, after)
	if l.operation == "add" {
		line["stored"], err = l.stored(server, addr)
		if err != nil {
			return err
		}
	}
	say(line)
	return nil
}

func (l *load) run(inFlight int, duration time.Duration) time.Duration {
	started := time.Now()
	until := started.Add(duration)
	var workers sync.WaitGroup
	for range inFlight {
		workers.Go(func() { l.work(until) })
	}
	workers.Wait()
	return time.Since(started)
}

func (l *load) work(until time.Time) {
	latencies := make([]time.Duration, 0, 1<<14)
	var stream *kadStream
	for n := 0; time.Now().Before(until); n++ {
		started := time.Now()
		var err error
		if stream == nil {
			stream, err = l.open()
		}
		if err == nil {
			err = l.ask(stream, n)
		}
		if err != nil {
			l.failed(err)
			if stream != nil {
				_ = stream.Reset()
				stream = nil
			}
			continue
		}
		latencies = append(latencies, time.Since(started))
		if l.newStream {
			_ = stream.Close()
			stream = nil
		}
	}
	if stream != nil {
		_ = stream.Close()
	}
	l.mu.Lock()
	l.latencies = append(l.latencies, latencies...)
	l.mu.Unlock()
}

func (l *load) open() (*kadStream, error) {
	ctx, cancel := context.WithTimeout(context.Background(), replyTimeout)
	defer cancel()
	stream, err := l.client.openKad(ctx)
	if err == nil && l.newStream {
		_ = stream.SetDeadline(time.Now().Add(replyTimeout))
	}
	return stream, err
}

func (l *load) ask(stream *kadStream, n int) error {
	if !l.newStream && n%sampleEvery == 0 { // not for each: a deadline costs as much as a request
		_ = stream.SetDeadline(time.Now().Add(2 * replyTimeout))
	}
	key := randomMultihash()
	if l.operation == "find_node" {
		key = randomPeerID()
	}
	if err := stream.send(operations[l.operation](l, key)); err != nil {
		return err
	}
	reply, err := stream.receive()
	if err != nil {
		return err
	}
	if len(reply) < 2 || reply[0] != typeField {
		return errors.New("a reply without a type")
	}
	if n%sampleEvery == 0 {
		l.sample(key, reply)
	}
	return nil
}

func (l *load) sample(key, reply []byte) {
	closer, err := peersIn(reply, closerField)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.added = append(l.added, key)
	if err != nil {
		l.failures["malformed reply"]++
		return
	}
	l.closer += closer
	l.sampled++
}

// stored asks, as somebody else (rust tells nobody of himself), for some of the records announced:
// the share of them that the server has.
func (l *load) stored(server peer.ID, addr multiaddr.Multiaddr) (float64, error) {
	checker, err := newConnected(server, addr)
	if err != nil {
		return 0, err
	}
	defer func() { _ = checker.connection.Close() }()
	checked := l.added[max(0, len(l.added)-checkedRecords):]
	found := 0
	for _, key := range checked {
		reply, err := checker.askOnce(request(getProviders, key))
		if err != nil {
			return 0, err
		}
		if names(reply, l.client.id) {
			found++
		}
	}
	return float64(found) / float64(max(1, len(checked))), nil
}

func (l *load) failed(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failures[err.Error()]++
	if l.failures[err.Error()] > 1 {
		time.Sleep(time.Millisecond) // a server that refuses everything is not hammered
	}
}

func (l *load) report(took time.Duration, before, after usage) fields {
	slices.Sort(l.latencies)
	requests, failed := len(l.latencies), 0
	for _, n := range l.failures {
		failed += n
	}
	line := fields{
		"requests": requests, "failed": failed, "failures": l.failures,
		"seconds": took.Seconds(), "requests_per_s": float64(requests) / took.Seconds(),
		"p50_ms": l.quantile(0.5), "p99_ms": l.quantile(0.99), "rss_kib": after.rssKiB,
	}
	if l.sampled > 0 {
		line["closer_peers"] = float64(l.closer) / float64(l.sampled)
	}
	if after != (usage{}) && requests > 0 {
		cpu := after.cpuSeconds - before.cpuSeconds
		line["cpu_s"] = math.Round(cpu*100) / 100
		line["cpu_us_per_request"] = cpu * 1e6 / float64(requests)
	}
	return line
}

func (l *load) quantile(q float64) float64 {
	if len(l.latencies) == 0 {
		return 0
	}
	at := min(int(q*float64(len(l.latencies))), len(l.latencies)-1)
	return float64(l.latencies[at].Microseconds()) / 1000
}
