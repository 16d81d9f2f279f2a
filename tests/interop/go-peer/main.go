// Command go-peer runs one or many go-libp2p nodes with go-libp2p-kad-dht in one process, for the
// interoperability tests. A test drives it with JSON lines: see protocol.go for the lines and
// commands.go for what can be asked. Its log is stderr. It ends when its stdin ends.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
)

// list is a flag that may be given several times.
type list []string

func (l *list) String() string { return strings.Join(*l, " ") }

func (l *list) Set(value string) error {
	*l = append(*l, value)
	return nil
}

func main() {
	var options nodeOptions
	flag.Var(&options.listen, "listen", "multiaddr to listen on; repeatable (default /ip4/127.0.0.1/tcp/0)")
	flag.Var(&options.bootstrap, "bootstrap", "multiaddr with /p2p to join through; repeatable")
	flag.StringVar(&options.mode, "mode", "server", "server, client or auto")
	flag.StringVar(&options.seed, "seed", "", "text that decides the identities; random without")
	flag.StringVar(&options.security, "security", "noise,tls", "security protocols, in order of preference")
	flag.StringVar(&options.values, "values", "any", "any: /v and /test take every value; amino: the public network's rules")
	flag.StringVar(&options.limits, "limits", "none", "none, or default: go-libp2p's own resource manager")
	flag.BoolVar(&options.noRefresh, "no-refresh", false, "refresh the routing table only on command")
	flag.BoolVar(&options.optimistic, "optimistic-provide", false, "return from provide once enough peers have it")
	flag.BoolVar(&options.apart, "apart", false, "join nobody: the nodes of this process are strangers")
	count := flag.Int("count", 1, "nodes in this process, each with its own identity and port")
	flag.Parse()

	if err := run(options, *count); err != nil {
		fmt.Fprintln(os.Stderr, "go-peer:", err)
		os.Exit(1)
	}
}

func run(options nodeOptions, count int) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	swarm, err := startSwarm(ctx, options, count)
	if err != nil {
		return err
	}
	defer swarm.close()

	answers := newWriter(os.Stdout)
	answers.write(readyLine{Ready: true, Implementation: "go", Peers: swarm.describe()})

	var running sync.WaitGroup
	lines := bufio.NewReaderSize(os.Stdin, 1<<16)
	for {
		line, readErr := lines.ReadBytes('\n')
		if len(line) > 1 {
			var r request
			if err := json.Unmarshal(line, &r); err != nil {
				answers.write(answer{Error: "not a command: " + err.Error()})
			} else if r.Command == "quit" {
				answers.write(answer{ID: r.ID, OK: true})
				break
			} else {
				running.Add(1)
				go func() {
					defer running.Done()
					answers.write(swarm.answer(ctx, r))
				}()
			}
		}
		if readErr != nil {
			break
		}
	}
	cancel()
	running.Wait()
	return nil
}
