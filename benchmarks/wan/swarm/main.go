// Command swarm is a network of real go-libp2p-kad-dht servers on loopback, in one process. Each is
// reachable only through a TCP proxy with a delay of its own; some are dead: they stand in the
// others' routing tables, and nobody answers at their address. It keeps account of what each client
// sends to whom and when, and knows what a perfect client would find.
//
// It prints one line when it is ready, then answers the JSON lines of commands.go on stdin, and ends
// when that ends.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
)

func main() {
	var shape shape
	flag.IntVar(&shape.servers, "servers", 300, "number of servers, the dead ones included")
	flag.Float64Var(&shape.dead, "dead", 0.2, "share of servers that are dead: every second one refuses, the others are black holes")
	flag.Float64Var(&shape.slow, "slow", 0.03, "share of living servers that are slow")
	flag.DurationVar(&shape.slowDelay, "slow-delay", defaultSlowDelay, "of a slow server, each way")
	flag.DurationVar(&shape.median, "rtt", defaultMedianRTT, "median round trip of the others, lognormal")
	flag.Float64Var(&shape.sigma, "sigma", 0.6, "of the lognormal distribution")
	flag.DurationVar(&shape.cap, "rtt-cap", defaultRTTCap, "longest round trip of the others")
	flag.Int64Var(&shape.seed, "seed", 1, "decides identities, delays, tables, and who is dead or slow")
	flag.Parse()

	if err := run(shape); err != nil {
		fmt.Fprintln(os.Stderr, "swarm:", err)
		os.Exit(1)
	}
}

func run(shape shape) error {
	s, err := startSwarm(shape)
	if err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(s.describe()); err != nil {
		return err
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		if err := out.Encode(s.answer(lines.Bytes())); err != nil {
			return err
		}
	}
	return lines.Err()
}
