package main

import (
	"maps"
	"sync"
)

// Counts is what the stand-in saw since it started or was reset.
type Counts struct {
	Requests         int         `json:"requests"`
	Answered         int         `json:"answered"`
	Unauthorized     int         `json:"unauthorized"`
	OverQuota        int         `json:"overQuota"`
	NoRecording      int         `json:"noRecording"`
	Faulted          int         `json:"faulted"`
	ClientGone       int         `json:"clientGone"`
	Running          int         `json:"running"`
	MaxRunning       int         `json:"maxRunning"`
	PromptTokens     int         `json:"promptTokens"`
	CompletionTokens int         `json:"completionTokens"`
	ByStatus         map[int]int `json:"byStatus"`
}

// Stats are Counts under a lock.
type Stats struct {
	mutex  sync.Mutex
	counts Counts
}

// NewStats starts at zero.
func NewStats() *Stats {
	return &Stats{counts: Counts{ByStatus: map[int]int{}}}
}

// Count changes the counts.
func (s *Stats) Count(change func(*Counts)) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	change(&s.counts)
}

// Status counts an answer's status.
func (s *Stats) Status(status int) {
	s.Count(func(c *Counts) { c.ByStatus[status]++ })
}

// Begin counts a request in; the result counts it out.
func (s *Stats) Begin() (end func()) {
	s.Count(func(c *Counts) {
		c.Requests++
		c.Running++
		c.MaxRunning = max(c.MaxRunning, c.Running)
	})
	return func() { s.Count(func(c *Counts) { c.Running-- }) }
}

// Snapshot is a copy.
func (s *Stats) Snapshot() Counts {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	copied := s.counts
	copied.ByStatus = maps.Clone(s.counts.ByStatus)
	return copied
}

// Reset starts again at zero, but for the requests that are running.
func (s *Stats) Reset() {
	s.Count(func(c *Counts) {
		*c = Counts{Running: c.Running, MaxRunning: c.Running, ByStatus: map[int]int{}}
	})
}
