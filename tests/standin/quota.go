package main

import (
	"sync"
	"time"
)

// window is the span that the per-minute limits look back.
const window = time.Minute

// Limits are a provider's quota; a zero is no limit.
type Limits struct {
	RequestsPerMinute int `json:"requestsPerMinute"`
	TokensPerMinute   int `json:"tokensPerMinute"`
	MaxConcurrent     int `json:"maxConcurrent"`
}

// Quota enforces Limits over a sliding minute. Refused requests don't count.
type Quota struct {
	now     func() time.Time
	mutex   sync.Mutex
	limits  Limits
	running int
	taken   []grant // oldest first
}

type grant struct {
	at     time.Time
	tokens int
}

// NewQuota takes its time from now.
func NewQuota(limits Limits, now func() time.Time) *Quota {
	return &Quota{now: now, limits: limits}
}

// Verdict says whether a request may go on; if not, which limit it met and when to come again.
type Verdict struct {
	Allowed    bool
	Limit      string
	RetryAfter time.Duration
}

// Take asks for one request of so many tokens; Release must follow an allowed one.
func (q *Quota) Take(tokens int) Verdict {
	q.mutex.Lock()
	defer q.mutex.Unlock()
	now := q.now()
	for len(q.taken) > 0 && now.Sub(q.taken[0].at) >= window {
		q.taken = q.taken[1:]
	}
	if q.limits.MaxConcurrent > 0 && q.running >= q.limits.MaxConcurrent {
		return Verdict{Limit: "concurrent requests", RetryAfter: time.Second}
	}
	if limit := q.limits.RequestsPerMinute; limit > 0 && len(q.taken) >= limit {
		return Verdict{Limit: "requests per minute", RetryAfter: window - now.Sub(q.taken[len(q.taken)-limit].at)}
	}
	if limit := q.limits.TokensPerMinute; limit > 0 {
		used := 0
		for _, one := range q.taken {
			used += one.tokens
		}
		if used+tokens > limit {
			retry := window
			for _, one := range q.taken { // wait until enough of the oldest have left
				used -= one.tokens
				if used+tokens <= limit {
					retry = window - now.Sub(one.at)
					break
				}
			}
			return Verdict{Limit: "tokens per minute", RetryAfter: retry}
		}
	}
	q.running++
	q.taken = append(q.taken, grant{now, tokens})
	return Verdict{Allowed: true}
}

// Release gives the concurrent place back.
func (q *Quota) Release() {
	q.mutex.Lock()
	defer q.mutex.Unlock()
	q.running--
}
