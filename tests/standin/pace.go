package main

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// Pace is how fast a provider answers.
type Pace struct {
	FirstToken      time.Duration
	TokensPerSecond float64
	Jitter          float64
}

// Pacer draws waiting times; the same seed and order of requests gives the same times.
type Pacer struct {
	pace   Pace
	mutex  sync.Mutex
	random *rand.Rand
}

// NewPacer starts the draws at a seed.
func NewPacer(pace Pace, seed uint64) *Pacer {
	return &Pacer{pace: pace, random: rand.New(rand.NewPCG(seed, 0))}
}

// Draw gives one request its time to first token and the time between its tokens.
func (p *Pacer) Draw() (first, each time.Duration) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	first = p.vary(p.pace.FirstToken)
	if p.pace.TokensPerSecond > 0 {
		each = p.vary(time.Duration(float64(time.Second) / p.pace.TokensPerSecond))
	}
	return first, each
}

func (p *Pacer) vary(mean time.Duration) time.Duration {
	return time.Duration(float64(mean) * (1 + p.pace.Jitter*(2*p.random.Float64()-1)))
}

// pause waits, or says false when the caller went away first.
func pause(ctx context.Context, wait time.Duration) bool {
	if wait <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
