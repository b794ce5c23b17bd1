package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	asked    = "Where is my card?"
	recorded = `{"intent": "card_arrival"}`
)

type fixture struct {
	*Provider
	api, admin *httptest.Server
}

func start(t *testing.T, limits Limits, pace Pace) *fixture {
	t.Helper()
	recordings := &Recordings{answers: map[string]string{asked: recorded}}
	provider := &Provider{
		Model:      "tall-model",
		Recordings: recordings,
		Key:        func() (string, error) { return "right", nil },
		Pacer:      NewPacer(pace, 7),
		Quota:      NewQuota(limits, time.Now),
		Faults:     &Faults{},
		Stats:      NewStats(),
	}
	f := &fixture{provider, httptest.NewServer(provider.Handler()), httptest.NewServer(provider.Admin())}
	t.Cleanup(func() { provider.Faults.Clear(); f.api.Close(); f.admin.Close() })
	return f
}

func body(t *testing.T, change func(map[string]any)) io.Reader {
	t.Helper()
	request := map[string]any{
		"model": "tall-model",
		"messages": []map[string]any{
			{"role": "system", "content": "be short"},
			{"role": "user", "content": asked},
		},
	}
	if change != nil {
		change(request)
	}
	raw, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(raw)
}

func (f *fixture) post(t *testing.T, key string, content io.Reader) *http.Response {
	t.Helper()
	reply, err := f.try(t.Context(), key, content)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = reply.Body.Close() })
	return reply
}

func (f *fixture) try(ctx context.Context, key string, content io.Reader) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, f.api.URL+"/v1/chat/completions", content)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+key)
	return (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
}

func (f *fixture) fault(t *testing.T, text string, want int) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, f.admin.URL+"/fake/fault", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	reply, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = reply.Body.Close()
	if reply.StatusCode != want {
		t.Fatalf("fault %s: status %d, want %d", text, reply.StatusCode, want)
	}
}

func decode[T any](t *testing.T, reply *http.Response) T {
	t.Helper()
	var value T
	if err := json.NewDecoder(reply.Body).Decode(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

func TestPlainAnswerIsTheRecordingAndSaysWhatItIs(t *testing.T) {
	f := start(t, Limits{}, Pace{})
	reply := f.post(t, "right", body(t, nil))
	answer := decode[Answer](t, reply)
	if reply.StatusCode != 200 || *answer.Choices[0].Message.Content != recorded || *answer.Choices[0].FinishReason != "stop" {
		t.Fatalf("%d %+v", reply.StatusCode, answer)
	}
	if answer.SystemFingerprint != Fingerprint || answer.Model != "tall-model" || answer.Object != "chat.completion" {
		t.Fatalf("%+v", answer)
	}
	if answer.Usage.PromptTokens == 0 || answer.Usage.TotalTokens != answer.Usage.PromptTokens+answer.Usage.CompletionTokens {
		t.Fatalf("%+v", answer.Usage)
	}
}

func TestLastUserMessageOfPartsIsFound(t *testing.T) {
	f := start(t, Limits{}, Pace{})
	reply := f.post(t, "right", body(t, func(request map[string]any) {
		request["messages"] = []map[string]any{
			{"role": "user", "content": "another"},
			{"role": "assistant", "content": nil},
			{"role": "user", "content": []map[string]any{{"type": "text", "text": asked}}},
		}
	}))
	if reply.StatusCode != 200 {
		t.Fatal(reply.Status)
	}
}

func TestStream(t *testing.T) {
	f := start(t, Limits{}, Pace{})
	for _, usage := range []bool{false, true} {
		reply := f.post(t, "right", body(t, func(request map[string]any) {
			request["stream"] = true
			request["stream_options"] = map[string]bool{"include_usage": usage}
		}))
		if kind := reply.Header.Get("Content-Type"); kind != "text/event-stream" {
			t.Fatal(kind)
		}
		var content, finish string
		var counted, done bool
		for lines := bufio.NewScanner(reply.Body); lines.Scan(); {
			data, found := strings.CutPrefix(lines.Text(), "data: ")
			if !found {
				continue
			}
			if data == "[DONE]" {
				done = true
				continue
			}
			var chunk Answer
			if err := json.Unmarshal([]byte(data), &chunk); err != nil {
				t.Fatal(err)
			}
			if chunk.SystemFingerprint != Fingerprint || chunk.Object != "chat.completion.chunk" {
				t.Fatalf("%+v", chunk)
			}
			counted = counted || chunk.Usage != nil
			for _, choice := range chunk.Choices {
				if choice.Delta.Content != nil {
					content += *choice.Delta.Content
				}
				if choice.FinishReason != nil {
					finish = *choice.FinishReason
				}
			}
		}
		if content != recorded || finish != "stop" || !done || counted != usage {
			t.Fatalf("content %q finish %q done %v usage %v", content, finish, done, counted)
		}
	}
}

func TestMaxTokensCutsTheAnswer(t *testing.T) {
	f := start(t, Limits{}, Pace{})
	answer := decode[Answer](t, f.post(t, "right", body(t, func(request map[string]any) { request["max_tokens"] = 2 })))
	if *answer.Choices[0].FinishReason != "length" || answer.Usage.CompletionTokens != 2 {
		t.Fatalf("%+v", answer)
	}
}

func TestRefusals(t *testing.T) {
	f := start(t, Limits{}, Pace{})
	other := func(field string, value any) io.Reader {
		return body(t, func(request map[string]any) { request[field] = value })
	}
	unknown := []map[string]any{{"role": "user", "content": "never heard"}}
	for name, one := range map[string]struct {
		key    string
		body   io.Reader
		status int
		code   string
	}{
		"wrong key":     {"wrong", body(t, nil), 401, "invalid_api_key"},
		"no key":        {"", body(t, nil), 401, "invalid_api_key"},
		"no recording":  {"right", other("messages", unknown), 404, "no_recording"},
		"unknown model": {"right", other("model", "intent"), 404, "model_not_found"},
		"not JSON":      {"right", strings.NewReader("{"), 400, "invalid_json"},
		"odd content":   {"right", other("messages", []map[string]any{{"role": "user", "content": 7}}), 400, "invalid_json"},
	} {
		t.Run(name, func(t *testing.T) {
			reply := f.post(t, one.key, one.body)
			answer := decode[struct {
				Error APIError `json:"error"`
			}](t, reply)
			if reply.StatusCode != one.status || answer.Error.Code != one.code {
				t.Fatalf("%d %+v", reply.StatusCode, answer)
			}
		})
	}
	counts := f.Stats.Snapshot()
	if counts.Requests != 6 || counts.Unauthorized != 2 || counts.NoRecording != 1 || counts.ByStatus[404] != 2 || counts.Answered != 0 {
		t.Fatalf("%+v", counts)
	}
}

func TestUnreadableKeyRefusesEverybody(t *testing.T) {
	f := start(t, Limits{}, Pace{})
	f.Key = func() (string, error) { return "", errors.New("gone") }
	if reply := f.post(t, "right", body(t, nil)); reply.StatusCode != 401 {
		t.Fatal(reply.Status)
	}
}

func TestQuotaSaysWhenToComeAgainAndIsCounted(t *testing.T) {
	f := start(t, Limits{RequestsPerMinute: 2}, Pace{})
	for want, status := range []int{200, 200, 429} {
		reply := f.post(t, "right", body(t, nil))
		if reply.StatusCode != status {
			t.Fatalf("request %d: %s", want+1, reply.Status)
		}
		if status == 429 && reply.Header.Get("Retry-After") != "60" {
			t.Fatal(reply.Header)
		}
	}
	if counts := f.Stats.Snapshot(); counts.OverQuota != 1 || counts.Answered != 2 {
		t.Fatalf("%+v", counts)
	}
}

func TestQuotaSlides(t *testing.T) {
	now := time.Unix(1000, 0)
	quota := NewQuota(Limits{RequestsPerMinute: 2, TokensPerMinute: 100, MaxConcurrent: 1}, func() time.Time { return now })
	take := func(tokens int, limit string, retry time.Duration) {
		t.Helper()
		verdict := quota.Take(tokens)
		if verdict.Limit != limit || verdict.Allowed != (limit == "") || verdict.RetryAfter != retry {
			t.Fatalf("%+v, want %q and %v", verdict, limit, retry)
		}
	}
	take(90, "", 0)
	take(1, "concurrent requests", time.Second)
	quota.Release()
	now = now.Add(20 * time.Second)
	take(11, "tokens per minute", 40*time.Second)
	take(10, "", 0)
	quota.Release()
	take(0, "requests per minute", 40*time.Second)
	now = now.Add(40 * time.Second)
	take(90, "", 0)
}

func TestPaceIsSlowAsAskedAndRepeatable(t *testing.T) {
	pace := Pace{FirstToken: 100 * time.Millisecond, TokensPerSecond: 100, Jitter: 0.2}
	one, two := NewPacer(pace, 3), NewPacer(pace, 3)
	differs := false
	var before time.Duration
	for range 20 {
		first, each := one.Draw()
		if again, eachAgain := two.Draw(); first != again || each != eachAgain {
			t.Fatal("the same seed gave other times")
		}
		if first < 80*time.Millisecond || first > 120*time.Millisecond || each < 8*time.Millisecond || each > 12*time.Millisecond {
			t.Fatal(first, each)
		}
		differs = differs || (before != 0 && first != before)
		before = first
	}
	if !differs {
		t.Fatal("no jitter")
	}
	f := start(t, Limits{}, Pace{FirstToken: 50 * time.Millisecond})
	begin := time.Now()
	f.post(t, "right", body(t, nil))
	if took := time.Since(begin); took < 50*time.Millisecond {
		t.Fatal(took)
	}
}

func TestSlotsMakeTheOthersWaitAndEachSlower(t *testing.T) {
	f := start(t, Limits{}, Pace{FirstToken: 100 * time.Millisecond})
	f.Slots = NewSlots(2, 1)
	begin, ends := time.Now(), make(chan time.Duration, 3)
	for i := range 3 {
		go func() {
			time.Sleep(time.Duration(i) * 20 * time.Millisecond)
			if reply, err := f.try(context.Background(), "right", body(t, nil)); err == nil {
				_, _ = io.Copy(io.Discard, reply.Body)
				_ = reply.Body.Close()
			}
			ends <- time.Since(begin)
		}()
	}
	// The first is alone (100 ms), the second is not (20 + 200 ms), and the third waits for the first, then is not alone.
	for i, least := range []time.Duration{100, 220, 300} {
		if end := <-ends; end < least*time.Millisecond || end > least*time.Millisecond+90*time.Millisecond {
			t.Errorf("answer %d came after %v, want %v ms", i, end, int(least))
		}
	}
}

func TestFaultsAreForSoManyRequests(t *testing.T) {
	f := start(t, Limits{}, Pace{})
	f.fault(t, `{"kind": "status", "status": 503, "requests": 2, "retryAfterSeconds": 9}`, 204)
	for _, want := range []int{503, 503, 200} {
		reply := f.post(t, "right", body(t, nil))
		if reply.StatusCode != want || (want == 503 && reply.Header.Get("Retry-After") != "9") {
			t.Fatal(reply.Status, reply.Header)
		}
	}
	for _, wrong := range []string{`{"kind": "status", "status": 200}`, `{"kind": "latency"}`, `{"kind": "flood"}`, `{`} {
		f.fault(t, wrong, 400)
	}
}

func TestFaultsBreakTheConnection(t *testing.T) {
	f := start(t, Limits{}, Pace{})
	stream := func(request map[string]any) { request["stream"] = true }
	for _, one := range []struct {
		kind   Kind
		change func(map[string]any)
		begins bool // an answer begins before it breaks
	}{{FailReset, nil, false}, {FailDrop, nil, true}, {FailDrop, stream, true}} {
		f.fault(t, `{"kind": "`+string(one.kind)+`", "requests": 1}`, 204)
		reply, err := f.try(t.Context(), "right", body(t, one.change))
		if (err == nil) != one.begins {
			t.Fatalf("%s: %v", one.kind, err)
		}
		if err == nil {
			raw, err := io.ReadAll(reply.Body)
			_ = reply.Body.Close()
			if err == nil || len(raw) == 0 {
				t.Fatalf("%s: read %q and no error", one.kind, raw)
			}
		}
	}
	f.fault(t, `{"kind": "malformed", "requests": 1}`, 204)
	raw, err := io.ReadAll(f.post(t, "right", body(t, nil)).Body)
	if err != nil || json.Valid(raw) {
		t.Fatalf("%v %q", err, raw)
	}
	if reply := f.post(t, "right", body(t, nil)); reply.StatusCode != 200 {
		t.Fatal(reply.Status)
	}
}

func TestHangEndsWithTheCallerOrTheFault(t *testing.T) {
	f := start(t, Limits{}, Pace{})
	f.fault(t, `{"kind": "hang", "requests": 1}`, 204)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := f.try(ctx, "right", body(t, nil)); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	f.fault(t, `{"kind": "hang", "requests": 1}`, 204)
	ended := make(chan error, 1)
	go func() {
		_, err := f.try(t.Context(), "right", body(t, nil))
		ended <- err
	}()
	for f.Stats.Snapshot().Faulted < 2 {
		time.Sleep(time.Millisecond)
	}
	f.Faults.Clear()
	if err := <-ended; err == nil {
		t.Fatal("an answer")
	}
}

func TestCallerThatLeavesFreesItsPlace(t *testing.T) {
	f := start(t, Limits{MaxConcurrent: 1}, Pace{FirstToken: time.Minute})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, _ = f.try(ctx, "right", body(t, nil))
	for end := time.Now().Add(5 * time.Second); f.Stats.Snapshot().Running > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("still running")
		}
	}
	if counts := f.Stats.Snapshot(); counts.ClientGone != 1 || counts.MaxRunning != 1 {
		t.Fatalf("%+v", counts)
	}
	if !f.Quota.Take(1).Allowed {
		t.Fatal("its place is still taken")
	}
}

func TestAdminShowsAndResetsStats(t *testing.T) {
	f := start(t, Limits{}, Pace{})
	f.post(t, "right", body(t, nil))
	read := func() Counts {
		reply, err := http.Get(f.admin.URL + "/stats")
		if err != nil {
			t.Fatal(err)
		}
		defer reply.Body.Close()
		return decode[Counts](t, reply)
	}
	if counts := read(); counts.Requests != 1 || counts.ByStatus[200] != 1 {
		t.Fatalf("%+v", counts)
	}
	request, _ := http.NewRequestWithContext(t.Context(), http.MethodDelete, f.admin.URL+"/stats", nil)
	if _, err := http.DefaultClient.Do(request); err != nil {
		t.Fatal(err)
	}
	if counts := read(); counts.Requests != 0 || counts.ByStatus[200] != 0 {
		t.Fatalf("%+v", counts)
	}
}

func TestRecordingFiles(t *testing.T) {
	for name, one := range map[string]struct {
		content string
		answers int
		wrong   string
	}{
		"array":         {`[{"text": "a", "answer": "b", "gold": "c"}]`, 1, ""},
		"lines":         {"{\"text\": \"a\", \"answer\": \"b\"}\n{\"text\": \"c\", \"answer\": \"\"}\n", 2, ""},
		"empty":         {"", 0, ""},
		"same twice":    {`[{"text": "a", "answer": "b"}, {"text": "a", "answer": "b"}]`, 1, ""},
		"contradiction": {`[{"text": "a", "answer": "b"}, {"text": "a", "answer": "c"}]`, 0, "recording 2: two answers"},
		"no answer":     {`{"text": "a"}`, 0, "recording 1: needs"},
		"broken":        {`{"text": "a"`, 0, "recording 1: unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "recordings")
			if err := os.WriteFile(path, []byte(one.content), 0o600); err != nil {
				t.Fatal(err)
			}
			recordings, err := LoadRecordings(path)
			if one.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), one.wrong) {
					t.Fatal(err)
				}
				return
			}
			if err != nil || recordings.Len() != one.answers {
				t.Fatal(err, recordings)
			}
		})
	}
}

func TestDemoRecordingsLoad(t *testing.T) {
	recordings, err := LoadRecordings("../data/intents-frontier.jsonl")
	if err != nil || recordings.Len() != 60 {
		t.Fatal(err, recordings)
	}
}

func TestPiecesJoinToTheText(t *testing.T) {
	for _, text := range []string{"", "a", "abcd", "abcde", "über ñandú 日本語 text"} {
		if joined := strings.Join(pieces(text), ""); joined != text {
			t.Fatalf("%q became %q", text, joined)
		}
	}
}

func TestFlags(t *testing.T) {
	if _, err := parse([]string{"--jitter", "1"}); err == nil {
		t.Fatal("no recordings, and no complaint")
	}
	o, err := parse([]string{"--recordings", "a", "--recordings", "b", "--max-concurrent", "3"})
	if err != nil || len(o.recordings) != 2 || o.limits.MaxConcurrent != 3 {
		t.Fatal(o, err)
	}
}
