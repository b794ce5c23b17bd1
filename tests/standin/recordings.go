package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
)

// Recordings maps the exact text of a request's last user message to an answer.
type Recordings struct {
	answers map[string]string
}

type recording struct {
	Text   *string `json:"text"`
	Answer *string `json:"answer"`
}

// LoadRecordings reads JSON arrays or JSON lines; other fields than text and answer are ignored.
func LoadRecordings(paths ...string) (*Recordings, error) {
	all := &Recordings{answers: map[string]string{}}
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if err := all.read(raw); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return all, nil
}

func (r *Recordings) read(raw []byte) error {
	if trimmed := bytes.TrimSpace(raw); len(trimmed) > 0 && trimmed[0] == '[' {
		var list []recording
		if err := json.Unmarshal(trimmed, &list); err != nil {
			return err
		}
		for i, one := range list {
			if err := r.add(one); err != nil {
				return fmt.Errorf("recording %d: %w", i+1, err)
			}
		}
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	for i := 1; ; i++ {
		var one recording
		if err := decoder.Decode(&one); err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("recording %d: %w", i, err)
		}
		if err := r.add(one); err != nil {
			return fmt.Errorf("recording %d: %w", i, err)
		}
	}
}

func (r *Recordings) add(one recording) error {
	if one.Text == nil || one.Answer == nil {
		return fmt.Errorf("needs text and answer")
	}
	if known, found := r.answers[*one.Text]; found && known != *one.Answer {
		return fmt.Errorf("two answers for %q", *one.Text)
	}
	r.answers[*one.Text] = *one.Answer
	return nil
}

// Find answers what was recorded for that message.
func (r *Recordings) Find(text string) (string, bool) {
	answer, found := r.answers[text]
	return answer, found
}

// Len is the number of messages with an answer.
func (r *Recordings) Len() int { return len(r.answers) }
