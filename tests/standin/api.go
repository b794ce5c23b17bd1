package main

import (
	"encoding/json"
	"errors"
	"strings"
)

// Fingerprint is in every answer: nobody shall take the stand-in for a model.
const Fingerprint = "stand-in-provider-replaying-recorded-answers"

// ChatRequest has the fields that the stand-in obeys; others are ignored, as providers do.
type ChatRequest struct {
	Model               string    `json:"model"`
	Messages            []Message `json:"messages"`
	Stream              bool      `json:"stream"`
	MaxTokens           *int      `json:"max_tokens"`
	MaxCompletionTokens *int      `json:"max_completion_tokens"`
	StreamOptions       *struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
}

// Limit is the number of tokens the caller allows, or none.
func (r *ChatRequest) Limit() *int {
	if r.MaxCompletionTokens != nil {
		return r.MaxCompletionTokens
	}
	return r.MaxTokens
}

// LastUser is the text by which an answer is found.
func (r *ChatRequest) LastUser() (string, bool) {
	for i := len(r.Messages) - 1; i >= 0; i-- {
		if r.Messages[i].Role == "user" {
			return string(r.Messages[i].Content), true
		}
	}
	return "", false
}

// PromptTokens is an estimate, like all token counts here: the stand-in has no tokenizer.
func (r *ChatRequest) PromptTokens() int {
	total := 3
	for _, message := range r.Messages {
		total += 4 + len(pieces(string(message.Content)))
	}
	return total
}

// Message is one turn.
type Message struct {
	Role    string `json:"role"`
	Content Text   `json:"content"`
}

// Text is a message's text: a string, null, or a list of parts.
type Text string

// UnmarshalJSON joins the text parts of a list.
func (t *Text) UnmarshalJSON(raw []byte) error {
	var plain *string
	if err := json.Unmarshal(raw, &plain); err == nil {
		if plain != nil {
			*t = Text(*plain)
		}
		return nil
	}
	var parts []struct {
		Type string `json:"type"`
		Text string `json:"text"`
	}
	if err := json.Unmarshal(raw, &parts); err != nil {
		return errors.New("content is neither text nor a list of parts")
	}
	var joined strings.Builder
	for _, part := range parts {
		joined.WriteString(part.Text)
	}
	*t = Text(joined.String())
	return nil
}

// Usage counts (estimated) tokens.
type Usage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	TotalTokens      int `json:"total_tokens"`
}

// Answer is a completion or one chunk of it.
type Answer struct {
	ID                string   `json:"id"`
	Object            string   `json:"object"`
	Created           int64    `json:"created"`
	Model             string   `json:"model"`
	SystemFingerprint string   `json:"system_fingerprint"`
	Choices           []Choice `json:"choices"`
	Usage             *Usage   `json:"usage,omitempty"`
}

// Choice has a message in a completion and a delta in a chunk.
type Choice struct {
	Index        int      `json:"index"`
	Message      *Turn    `json:"message,omitempty"`
	Delta        *Turn    `json:"delta,omitempty"`
	Logprobs     *float64 `json:"logprobs"` // always null: like many frontier APIs, it has none
	FinishReason *string  `json:"finish_reason"`
}

// Turn is what the assistant says.
type Turn struct {
	Role    string  `json:"role,omitempty"`
	Content *string `json:"content,omitempty"`
}

// APIError is the error of OpenAI's API.
type APIError struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    string  `json:"code"`
}

// pieces cuts a text into about as many parts as it has tokens, on rune boundaries.
func pieces(text string) []string {
	const size = 4 // bytes; the usual rule of thumb for English
	var all []string
	start := 0
	for at := range text {
		if at-start >= size {
			all = append(all, text[start:at])
			start = at
		}
	}
	if start < len(text) {
		all = append(all, text[start:])
	}
	return all
}
