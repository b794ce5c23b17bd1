data: {"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],"created":1,"id":"chatcmpl-a","model":"m","object":"chat.completion.chunk"}

data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"B"},"logprobs":{"content":[{"id":7,"token":"B","bytes":[66],"logprob":-0.654168,"top_logprobs":[{"id":7,"token":"B","bytes":[66],"logprob":-0.654168}]}]}}],"created":1,"id":"chatcmpl-a","model":"m","object":"chat.completion.chunk"}

data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"read"},"logprobs":{"content":[{"id":7,"token":"read","bytes":[114,101,97,100],"logprob":-0.097927,"top_logprobs":[{"id":7,"token":"read","bytes":[114,101,97,100],"logprob":-0.097927}]}]}}],"created":1,"id":"chatcmpl-a","model":"m","object":"chat.completion.chunk"}

data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":" is"},"logprobs":{"content":[{"id":7,"token":" is","bytes":[32,105,115],"logprob":-0.05923,"top_logprobs":[{"id":7,"token":" is","bytes":[32,105,115],"logprob":-0.05923}]}]}}],"created":1,"id":"chatcmpl-a","model":"m","object":"chat.completion.chunk"}

data: {"choices":[{"finish_reason":"length","index":0,"delta":{}}],"created":1,"id":"chatcmpl-a","model":"m","object":"chat.completion.chunk"}

data: {"choices":[],"created":1,"id":"chatcmpl-a","model":"m","object":"chat.completion.chunk","usage":{"completion_tokens":3,"prompt_tokens":40,"total_tokens":43}}

data: [DONE]

