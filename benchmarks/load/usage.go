package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// usage is what a process has used so far, as /proc tells it.
type usage struct {
	cpuSeconds float64
	rssKiB     int
}

const (
	ticksPerSecond = 100 // of /proc, on every Linux there is
	utimeField     = 11  // of /proc/PID/stat, counted after the name in parentheses
	stimeField     = 12
)

// usageOf reads nothing, and answers zeros, where no process was named.
func usageOf(pid int) (usage, error) {
	if pid == 0 {
		return usage{}, nil
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return usage{}, err
	}
	words := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	ticks := 0
	for _, field := range []int{utimeField, stimeField} {
		n, err := strconv.Atoi(string(words[field]))
		if err != nil {
			return usage{}, err
		}
		ticks += n
	}
	rss, err := rssKiB(pid)
	return usage{float64(ticks) / ticksPerSecond, rss}, err
}

func rssKiB(pid int) (int, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(status) {
		if words := bytes.Fields(line); len(words) > 1 && string(words[0]) == "VmRSS:" {
			return strconv.Atoi(string(words[1]))
		}
	}
	return 0, fmt.Errorf("process %d has no VmRSS", pid)
}
