package main

import (
	"context"
	"time"
)

// Slots make the stand-in a model server: so many requests are worked on at a time, the others wait in the order in which
// they came, and each takes longer the more there are. The zero value has no bound and no slowdown.
type Slots struct {
	taken    chan struct{}
	slowdown float64
}

// NewSlots has count slots (0: no bound). With b requests at a time a token takes 1 + slowdown*(b-1) times as long as alone.
func NewSlots(count int, slowdown float64) Slots {
	if count == 0 {
		return Slots{}
	}
	return Slots{make(chan struct{}, count), slowdown}
}

// Take waits for a slot and says how much slower tokens are, or false when the caller went away first.
func (s Slots) Take(ctx context.Context) (slower float64, taken bool) {
	if s.taken == nil {
		return 1, ctx.Err() == nil
	}
	select {
	case s.taken <- struct{}{}:
		return 1 + s.slowdown*float64(len(s.taken)-1), true
	case <-ctx.Done():
		return 0, false
	}
}

// Release gives a slot back.
func (s Slots) Release() {
	if s.taken != nil {
		<-s.taken
	}
}

func slower(each time.Duration, times float64) time.Duration {
	return time.Duration(float64(each) * times)
}
