"""Asks an external scaler as KEDA does, by gRPC's own client.

    client.py HOST:PORT

Each line in is a call, {"call", "namespace", "metadata", "metricName"}, and each line out what came of it:
{"call", "answer"} or {"call", "code", "details"}. A stream says a line for each message, and its code when it ends.
"""

import json
import os
import sys
import threading
from pathlib import Path

import grpc
from google.protobuf.json_format import MessageToDict


def say(**line: object) -> None:
    print(json.dumps(line), flush=True)


def main() -> None:
    os.chdir(Path(__file__).parent)
    sys.path.insert(0, ".")
    messages, services = grpc.protos_and_services("externalscaler.proto")
    scaler = services.ExternalScalerStub(grpc.insecure_channel(sys.argv[1]))

    def call(name: str, request: object) -> None:
        try:
            answers = getattr(scaler, name)(request)
            for answer in answers if name.startswith("Stream") else [answers]:
                say(call=name, answer=MessageToDict(answer, always_print_fields_with_no_presence=True))
            if name.startswith("Stream"):
                say(call=name, code="OK")
        except grpc.RpcError as error:
            say(call=name, code=error.code().name, details=error.details())

    for line in sys.stdin:
        asked = json.loads(line)
        request = messages.ScaledObjectRef(name="test", namespace=asked["namespace"], scalerMetadata=asked["metadata"])
        if "metricName" in asked:
            request = messages.GetMetricsRequest(scaledObjectRef=request, metricName=asked["metricName"])
        work = threading.Thread(target=call, args=(asked["call"], request), daemon=True)
        work.start()
        if not asked["call"].startswith("Stream"):
            work.join()


if __name__ == "__main__":
    main()
