// Command standin is a stand-in for a frontier model's provider, for demos and tests.
//
// It has no model. It speaks OpenAI's chat completions API, replays recorded
// answers with a provider's latency and quota, and says in the
// system_fingerprint of every answer that it does so.
//
//	recordings.go  message text -> recorded answer
//	api.go         what the API's requests and answers look like
//	serve.go       one request: key, fault, quota, recording, pace, answer
//	quota.go       requests a minute, tokens a minute, requests at once
//	pace.go        time to first token, tokens per second, jitter from a seed
//	fault.go       failures on demand, for tests
//	stats.go       what was seen, for tests
//	admin.go       the second port: stats and faults
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// keyVariable holds the key when there is no --key-file.
const keyVariable = "STANDIN_API_KEY"

// drainLimit bounds how long running answers may take after SIGTERM.
const drainLimit = 15 * time.Second

type options struct {
	listen, admin string
	recordings    []string
	keyFile       string
	model         string
	pace          Pace
	limits        Limits
	seed          uint64
	slots         int
	slowdown      float64
}

func parse(arguments []string) (options, error) {
	var o options
	set := flag.NewFlagSet("standin", flag.ContinueOnError)
	set.Usage = func() {
		fmt.Fprint(set.Output(), "A stand-in for a frontier provider: replays recorded answers over OpenAI's chat API.\n"+
			"It is not a model. Every answer's system_fingerprint says so.\n\n"+
			"The key comes from --key-file or $"+keyVariable+"; without both, any caller is served.\n"+
			"The admin port has GET /stats, DELETE /stats, GET, PUT and DELETE /fake/fault.\n\n")
		set.PrintDefaults()
	}
	set.StringVar(&o.listen, "listen", ":8080", "address of the API")
	set.StringVar(&o.admin, "admin", ":8081", "address of stats and faults; empty for none")
	set.Func("recordings", "file of recorded answers, JSON array or lines of {\"text\", \"answer\"} (repeatable)", func(path string) error {
		o.recordings = append(o.recordings, path)
		return nil
	})
	set.StringVar(&o.keyFile, "key-file", "", "file with the bearer key; read at every request, so that a rotated key is obeyed")
	set.StringVar(&o.model, "model", "frontier-large", "the one model it serves")
	set.DurationVar(&o.pace.FirstToken, "first-token", 450*time.Millisecond, "time to first token")
	set.Float64Var(&o.pace.TokensPerSecond, "tokens-per-second", 60, "speed after the first token; 0 for at once")
	set.Float64Var(&o.pace.Jitter, "jitter", 0.25, "times vary by up to this share, both ways")
	set.Uint64Var(&o.seed, "seed", 1, "seed of the jitter")
	set.IntVar(&o.limits.RequestsPerMinute, "requests-per-minute", 120, "quota; 0 for none")
	set.IntVar(&o.limits.TokensPerMinute, "tokens-per-minute", 60000, "quota; 0 for none")
	set.IntVar(&o.limits.MaxConcurrent, "max-concurrent", 8, "quota; 0 for none")
	set.IntVar(&o.slots, "slots", 0, "requests worked on at a time, the others wait, as at a model server; 0 for no bound")
	set.Float64Var(&o.slowdown, "slowdown", 0, "with --slots: by what share each request more makes all of them slower")
	if err := set.Parse(arguments); err != nil {
		return o, err
	}
	if set.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", set.Arg(0))
	}
	if len(o.recordings) == 0 {
		return o, errors.New("needs --recordings")
	}
	if o.pace.Jitter < 0 || o.pace.Jitter >= 1 {
		return o, fmt.Errorf("--jitter %v is not in [0, 1)", o.pace.Jitter)
	}
	if o.slots < 0 || o.slowdown < 0 {
		return o, errors.New("--slots and --slowdown can't be negative")
	}
	if o.slowdown > 0 && o.slots == 0 {
		return o, errors.New("--slowdown needs --slots")
	}
	return o, nil
}

func key(o options) func() (string, error) {
	if o.keyFile != "" {
		return func() (string, error) {
			raw, err := os.ReadFile(o.keyFile)
			return strings.TrimSpace(string(raw)), err
		}
	}
	fixed := strings.TrimSpace(os.Getenv(keyVariable))
	return func() (string, error) { return fixed, nil }
}

func run(ctx context.Context, o options) error {
	recordings, err := LoadRecordings(o.recordings...)
	if err != nil {
		return err
	}
	provider := &Provider{
		Model:      o.model,
		Recordings: recordings,
		Key:        key(o),
		Pacer:      NewPacer(o.pace, o.seed),
		Quota:      NewQuota(o.limits, time.Now),
		Slots:      NewSlots(o.slots, o.slowdown),
		Faults:     &Faults{},
		Stats:      NewStats(),
	}
	if secret, err := provider.Key(); err != nil {
		return err
	} else if secret == "" && o.keyFile != "" {
		return fmt.Errorf("key file %s is empty", o.keyFile)
	}
	servers := map[string]http.Handler{o.listen: provider.Handler()}
	if o.admin != "" {
		servers[o.admin] = provider.Admin()
	}
	failed := make(chan error, len(servers))
	var started []*http.Server
	for address, handler := range servers {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
		started = append(started, server)
		go func() { failed <- server.Serve(listener) }()
	}
	log.Printf("stand-in provider: model %s on %s, admin on %s, %d recorded answers", o.model, o.listen, o.admin, recordings.Len())
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.Background(), drainLimit)
	defer cancel()
	provider.Faults.Clear() // a hanging request would keep us
	for _, server := range started {
		err = errors.Join(err, server.Shutdown(drain))
	}
	return err
}

func main() {
	log.SetFlags(0)
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		err = run(ctx, o)
	}
	if err != nil {
		log.Fatalf("standin: %v", err)
	}
}
