package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"
)

// Kind is a way to fail.
type Kind string

// The ways to fail. None of them happens unless a test asks for it on the admin port.
const (
	FailStatus    Kind = "status"          // answer with an error status
	FailLatency   Kind = "latency"         // answer, but later
	FailHang      Kind = "hang"            // accept the request and never answer
	FailReset     Kind = "reset"           // reset the connection before an answer
	FailDrop      Kind = "drop-mid-stream" // close the connection in the middle of the answer
	FailMalformed Kind = "malformed"       // answer 200 with a body that is not JSON
)

// Fault is one way to fail, for the next requests.
type Fault struct {
	Kind     Kind   `json:"kind"`
	Requests int    `json:"requests,omitempty"` // how many; 0 until cleared
	Status   int    `json:"status,omitempty"`   // of kind status
	Latency  string `json:"latency,omitempty"`  // of kind latency, a duration
	// RetryAfter is the header of kind status, in seconds, where set.
	RetryAfter int `json:"retryAfterSeconds,omitempty"`

	extra   time.Duration
	cleared context.Context
}

// ParseFault reads and checks a fault.
func ParseFault(raw []byte) (*Fault, error) {
	var fault Fault
	if err := json.Unmarshal(raw, &fault); err != nil {
		return nil, err
	}
	switch fault.Kind {
	case FailStatus:
		if fault.Status < 400 || fault.Status > 599 {
			return nil, fmt.Errorf("status %d is not in 400..599", fault.Status)
		}
	case FailLatency:
		extra, err := time.ParseDuration(fault.Latency)
		if err != nil {
			return nil, fmt.Errorf("latency: %w", err)
		}
		fault.extra = extra
	case FailHang, FailReset, FailDrop, FailMalformed:
	default:
		return nil, fmt.Errorf("unknown kind %q", fault.Kind)
	}
	return &fault, nil
}

// Faults holds the one that is on, if any.
type Faults struct {
	mutex  sync.Mutex
	fault  *Fault
	left   int
	cancel context.CancelFunc
}

// Set turns a fault on, in place of the one before.
func (f *Faults) Set(fault *Fault) {
	f.Clear()
	f.mutex.Lock()
	defer f.mutex.Unlock()
	fault.cleared, f.cancel = context.WithCancel(context.Background())
	f.fault, f.left = fault, fault.Requests
}

// Clear turns it off and lets hanging requests go.
func (f *Faults) Clear() {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	if f.cancel != nil {
		f.cancel()
	}
	f.fault, f.left, f.cancel = nil, 0, nil
}

// Next is the fault that the next request meets, or nil.
func (f *Faults) Next() *Fault {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	fault := f.fault
	if fault != nil && fault.Requests > 0 {
		f.left--
		if f.left == 0 {
			f.fault = nil // its cancel stays: requests may still hang in it
		}
	}
	return fault
}

// Current is the fault that is on, with the number of requests it still meets.
func (f *Faults) Current() *Fault {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	if f.fault == nil {
		return nil
	}
	shown := *f.fault
	shown.Requests = f.left
	return &shown
}
