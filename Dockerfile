# The published image: one static binary and the CA certificates. `make image` builds the same layout without Docker.
# The version of rust-toolchain.toml: a test compares them.
FROM rust:1.95.0-bookworm AS build
WORKDIR /src
COPY . .
RUN target=$(uname -m)-unknown-linux-gnu \
    && RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --release --bin smallfirst --target "$target" \
    && cp "target/$target/release/smallfirst" /smallfirst

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /smallfirst /smallfirst
# Traffic, admin, and the operator's sync.
EXPOSE 8080 9090 9443
USER 65532:65532
ENTRYPOINT ["/smallfirst"]
