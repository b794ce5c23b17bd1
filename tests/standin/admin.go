package main

import (
	"io"
	"net/http"
)

// Admin serves the second port: what was seen, and failures on demand. It is for tests; it has no key.
func (p *Provider) Admin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", p.health)
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, p.Stats.Snapshot())
	})
	mux.HandleFunc("DELETE /stats", func(w http.ResponseWriter, _ *http.Request) {
		p.Stats.Reset()
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET /fake/fault", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]*Fault{"fault": p.Faults.Current()})
	})
	mux.HandleFunc("PUT /fake/fault", func(w http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<16))
		if err == nil {
			var fault *Fault
			if fault, err = ParseFault(raw); err == nil {
				p.Faults.Set(fault)
				w.WriteHeader(http.StatusNoContent)
				return
			}
		}
		http.Error(w, err.Error(), http.StatusBadRequest)
	})
	mux.HandleFunc("DELETE /fake/fault", func(w http.ResponseWriter, _ *http.Request) {
		p.Faults.Clear()
		w.WriteHeader(http.StatusNoContent)
	})
	return mux
}
