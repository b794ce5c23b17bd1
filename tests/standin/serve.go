package main

import (
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// maxBody bounds what a caller may send.
const maxBody = 16 << 20

// Provider is the stand-in.
type Provider struct {
	Model      string
	Recordings *Recordings
	Key        func() (string, error) // empty: any caller is served
	Pacer      *Pacer
	Quota      *Quota
	Slots      Slots
	Faults     *Faults
	Stats      *Stats

	serial atomic.Int64
}

// Handler serves the API.
func (p *Provider) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", p.health)
	mux.HandleFunc("GET /v1/models", p.models)
	mux.HandleFunc("POST /v1/chat/completions", p.chat)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusNotFound, "unknown_url", "the stand-in provider has no "+r.Method+" "+r.URL.Path)
	})
	return mux
}

func (p *Provider) health(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok", "system_fingerprint": Fingerprint})
}

func (p *Provider) models(w http.ResponseWriter, r *http.Request) {
	if !p.known(r) {
		refuseKey(w)
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"object": "list",
		"data":   []map[string]any{{"id": p.Model, "object": "model", "created": 0, "owned_by": Fingerprint}},
	})
}

// known checks the bearer key. A key that can't be read refuses everybody.
func (p *Provider) known(r *http.Request) bool {
	key, err := p.Key()
	if err != nil {
		return false
	}
	given, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return key == "" || subtle.ConstantTimeCompare([]byte(key), []byte(given)) == 1
}

// chat is one request: key, body, fault, quota, recording, pace, answer.
func (p *Provider) chat(writer http.ResponseWriter, r *http.Request) {
	defer p.Stats.Begin()()
	w := &counted{ResponseWriter: writer, stats: p.Stats}
	if !p.known(r) {
		p.Stats.Count(func(c *Counts) { c.Unauthorized++ })
		refuseKey(w)
		return
	}
	// Read before anything waits: net/http notices a caller that leaves only once the body is read.
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		refuse(w, http.StatusRequestEntityTooLarge, "body_too_large", err.Error())
		return
	}
	fault := p.Faults.Next()
	if fault != nil {
		p.Stats.Count(func(c *Counts) { c.Faulted++ })
		if p.failed(w, r, fault) {
			return
		}
	}
	var request ChatRequest
	if err := json.Unmarshal(raw, &request); err != nil {
		refuse(w, http.StatusBadRequest, "invalid_json", err.Error())
		return
	}
	if request.Model != p.Model {
		refuse(w, http.StatusNotFound, "model_not_found", fmt.Sprintf("no model %q; the stand-in provider has %q", request.Model, p.Model))
		return
	}
	tokens := request.PromptTokens()
	verdict := p.Quota.Take(tokens)
	if !verdict.Allowed {
		p.Stats.Count(func(c *Counts) { c.OverQuota++ })
		seconds := int(math.Max(1, math.Ceil(verdict.RetryAfter.Seconds())))
		w.Header().Set("Retry-After", strconv.Itoa(seconds))
		refuse(w, http.StatusTooManyRequests, "rate_limit_exceeded", "over the quota of "+verdict.Limit)
		return
	}
	defer p.Quota.Release()
	text, _ := request.LastUser()
	recorded, found := p.Recordings.Find(text)
	if !found {
		p.Stats.Count(func(c *Counts) { c.NoRecording++ })
		refuse(w, http.StatusNotFound, "no_recording", fmt.Sprintf("the stand-in provider has no recorded answer for %.80q", text))
		return
	}
	slowed, taken := p.Slots.Take(r.Context())
	if !taken {
		p.Stats.Count(func(c *Counts) { c.ClientGone++ })
		return
	}
	defer p.Slots.Release()
	reply := p.reply(&request, recorded, tokens)
	reply.first, reply.each = slower(reply.first, slowed), slower(reply.each, slowed)
	send := reply.plain
	if request.Stream {
		send = reply.stream
	}
	if !send(w, r, fault) {
		p.Stats.Count(func(c *Counts) { c.ClientGone++ })
		return
	}
	p.Stats.Count(func(c *Counts) {
		c.Answered++
		c.PromptTokens += reply.usage.PromptTokens
		c.CompletionTokens += reply.usage.CompletionTokens
	})
}

// failed does what a fault asks for, and says whether that was the end of the request.
func (p *Provider) failed(w http.ResponseWriter, r *http.Request, fault *Fault) bool {
	switch fault.Kind {
	case FailStatus:
		if fault.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(fault.RetryAfter))
		}
		refuse(w, fault.Status, "fake_fault", "a fault that a test asked for")
	case FailHang:
		select {
		case <-r.Context().Done():
		case <-fault.cleared.Done():
		}
		hangUp(w, false)
	case FailReset:
		hangUp(w, true)
	case FailMalformed:
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"id": "fake-fault", "choices": [`)
	case FailLatency:
		return !pause(r.Context(), fault.extra)
	case FailDrop:
		return false // the answer drops itself
	}
	return true
}

// reply is one answer, cut and timed.
type reply struct {
	head   Answer
	pieces []string
	finish string
	usage  Usage
	wants  bool // usage in the stream
	first  time.Duration
	each   time.Duration
}

func (p *Provider) reply(request *ChatRequest, recorded string, promptTokens int) *reply {
	cut, finish := pieces(recorded), "stop"
	if limit := request.Limit(); limit != nil && *limit >= 0 && *limit < len(cut) {
		cut, finish = cut[:*limit], "length"
	}
	first, each := p.Pacer.Draw()
	return &reply{
		head: Answer{
			ID:                fmt.Sprintf("chatcmpl-standin-%d", p.serial.Add(1)),
			Created:           time.Now().Unix(),
			Model:             p.Model,
			SystemFingerprint: Fingerprint,
		},
		pieces: cut,
		finish: finish,
		usage: Usage{
			PromptTokens:     promptTokens,
			CompletionTokens: len(cut),
			TotalTokens:      promptTokens + len(cut),
		},
		wants: request.StreamOptions != nil && request.StreamOptions.IncludeUsage,
		first: first,
		each:  each,
	}
}

// plain answers at once, after the time that all tokens take. False: the caller was gone.
func (a *reply) plain(w http.ResponseWriter, r *http.Request, fault *Fault) bool {
	if !pause(r.Context(), a.first+time.Duration(len(a.pieces))*a.each) {
		return false
	}
	content := strings.Join(a.pieces, "")
	answer := a.head
	answer.Object = "chat.completion"
	answer.Choices = []Choice{{Message: &Turn{Role: "assistant", Content: &content}, FinishReason: &a.finish}}
	answer.Usage = &a.usage
	if fault != nil && fault.Kind == FailDrop {
		raw, _ := json.Marshal(answer)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(raw)))
		_, _ = w.Write(raw[:len(raw)/2])
		_ = http.NewResponseController(w).Flush()
		hangUp(w, false)
		return true
	}
	writeJSON(w, http.StatusOK, answer)
	return true
}

// stream answers token by token. False: the caller was gone.
func (a *reply) stream(w http.ResponseWriter, r *http.Request, fault *Fault) bool {
	if !pause(r.Context(), a.first) {
		return false
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache")
	control := http.NewResponseController(w)
	event := func(choices []Choice, usage *Usage) {
		chunk := a.head
		chunk.Object, chunk.Choices, chunk.Usage = "chat.completion.chunk", choices, usage
		raw, _ := json.Marshal(chunk)
		_, _ = fmt.Fprintf(w, "data: %s\n\n", raw)
		_ = control.Flush()
	}
	empty := ""
	event([]Choice{{Delta: &Turn{Role: "assistant", Content: &empty}}}, nil)
	for i, piece := range a.pieces {
		if fault != nil && fault.Kind == FailDrop && i >= len(a.pieces)/2 {
			hangUp(w, false)
			return true
		}
		if !pause(r.Context(), a.each) {
			return false
		}
		event([]Choice{{Delta: &Turn{Content: &piece}}}, nil)
	}
	event([]Choice{{Delta: &Turn{}, FinishReason: &a.finish}}, nil)
	if a.wants {
		event([]Choice{}, &a.usage)
	}
	_, _ = io.WriteString(w, "data: [DONE]\n\n")
	_ = control.Flush()
	return true
}

// hangUp closes the connection, with a TCP reset where asked for.
func hangUp(w http.ResponseWriter, reset bool) {
	connection, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // HTTP/2: this closes the stream
	}
	if tcp, ok := connection.(*net.TCPConn); ok && reset {
		_ = tcp.SetLinger(0)
	}
	_ = connection.Close()
}

// counted counts the status that a request got.
type counted struct {
	http.ResponseWriter
	stats *Stats
	wrote bool
}

func (c *counted) WriteHeader(status int) {
	if !c.wrote {
		c.wrote = true
		c.stats.Status(status)
	}
	c.ResponseWriter.WriteHeader(status)
}

func (c *counted) Write(raw []byte) (int, error) {
	if !c.wrote {
		c.WriteHeader(http.StatusOK)
	}
	return c.ResponseWriter.Write(raw)
}

// Unwrap lets http.ResponseController reach the connection.
func (c *counted) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func refuseKey(w http.ResponseWriter) {
	refuse(w, http.StatusUnauthorized, "invalid_api_key", "the stand-in provider does not know this key")
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	kind := "invalid_request_error"
	switch {
	case status >= 500:
		kind = "server_error"
	case status == http.StatusTooManyRequests:
		kind = "rate_limit_error"
	case status == http.StatusUnauthorized:
		kind = "authentication_error"
	}
	writeJSON(w, status, map[string]any{
		"error":              APIError{Message: message, Type: kind, Code: code},
		"system_fingerprint": Fingerprint,
	})
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value)
}
