package main

import (
	"context"
	"sync"
	"time"
)

const (
	settleTime    = 2 * time.Second // for what the server still does after the last handshake
	giveUpFailing = 50              // a server at its limit refuses each, slowly
)

// idle opens connections and keeps them. Each is a DHT client: identified, asked nothing else, and
// with one FIND_NODE of its own.
func idle(arguments []string) error {
	flags, c := newFlags("idle")
	count := flags.Int("connections", 100, "how many")
	atOnce := flags.Int("at-once", 8, "dials in flight")
	_ = flags.Parse(arguments)
	if _, _, err := c.server(); err != nil {
		return err
	}
	before, err := usageOf(c.pid)
	if err != nil {
		return err
	}

	started := time.Now()
	var mu sync.Mutex
	var clients []*client
	failures, failed := map[string]int{}, 0
	turns := make(chan struct{}, *count)
	for range *count {
		turns <- struct{}{}
	}
	close(turns)
	var workers sync.WaitGroup
	for range *atOnce {
		workers.Go(func() {
			for range turns {
				mu.Lock()
				givenUp := failed >= giveUpFailing
				mu.Unlock()
				if givenUp {
					return
				}
				one, err := connectAndAsk(c)
				mu.Lock()
				if err != nil {
					failures[err.Error()]++
					failed++
				} else {
					clients = append(clients, one)
				}
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	took := time.Since(started)
	time.Sleep(settleTime)

	after, err := usageOf(c.pid)
	if err != nil {
		return err
	}
	alive := 0
	for _, one := range clients {
		if !one.connection.IsClosed() {
			alive++
		}
	}
	line := fields{
		"held": alive, "failures": failures,
		"seconds": took.Seconds(), "rss_kib": after.rssKiB,
	}
	if c.pid != 0 && alive > 0 {
		line["kib_per_connection"] = float64(after.rssKiB-before.rssKiB) / float64(alive)
		line["cpu_ms_per_connection"] = (after.cpuSeconds - before.cpuSeconds) * 1000 / float64(alive)
	}
	say(line)
	untilStdinEnds(context.Background())
	return nil
}

func connectAndAsk(c *common) (*client, error) {
	server, addr, err := c.server()
	if err != nil {
		return nil, err
	}
	one, err := newConnected(server, addr)
	if err != nil {
		return nil, err
	}
	_, err = one.askOnce(request(findNode, randomPeerID()))
	return one, err
}
