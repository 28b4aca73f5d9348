/* Registry drivers: where images come from and go to.
 *
 * A driver is untrusted transport. The core verifies digest and size of everything while it is read
 * and keeps the pull journal; a lying mirror cannot change what is run. The driver knows endpoints
 * (mirrors, then the origin), their rights, credentials and health; credentials of one endpoint are
 * never sent to another.
 */
#ifndef GANTRY_REGISTRY_H
#define GANTRY_REGISTRY_H

#include <gantry/abi.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A reference, already parsed and completed by the core: registry "docker.io", repository
 * "library/nginx", and either tag or digest ("" when not given; the digest wins). [borrowed] */
typedef struct gantry_reference {
    uint32_t struct_size;
    uint32_t reserved;
    const char *registry;
    const char *repository;
    const char *tag;
    const char *digest;
} gantry_reference;

/* Credentials that came with the request (X-Registry-Auth); valid for `server` alone. [borrowed] */
typedef struct gantry_credential {
    uint32_t struct_size;
    uint32_t reserved;
    const char *server; /* registry host as in the reference */
    const char *username;
    const char *password;
    const char *identity_token; /* OAuth2 refresh token, or "" */
    const char *registry_token; /* ready bearer token, or "" */
} gantry_credential;

/* [borrowed] */
typedef struct gantry_descriptor {
    uint32_t struct_size;
    uint32_t reserved;
    const char *media_type;
    const char *digest;   /* "sha256:..." */
    uint64_t size;        /* bytes; 0 when a server did not tell */
    const char *endpoint; /* URL or name of who answered; "" in requests */
} gantry_descriptor;

typedef struct gantry_descriptor_sink {
    uint32_t struct_size;
    uint32_t reserved;
    void *ctx;
    /* [call] */
    gantry_status (*set)(void *ctx, const gantry_descriptor *descriptor);
} gantry_descriptor_sink;

/* Receives a blob. `at` is the offset within the blob of the first byte of `data`; a driver starts
 * at the offset asked for and never skips or repeats. `endpoint` may change between calls: that is
 * how a driver goes on elsewhere after a failure. */
typedef struct gantry_blob_sink {
    uint32_t struct_size;
    uint32_t reserved;
    void *ctx;
    /* [call] */
    gantry_status (*write)(void *ctx, const char *endpoint, uint64_t at, const void *data, size_t size);
} gantry_blob_sink;

/* [borrowed] */
typedef struct gantry_fetch {
    uint32_t struct_size;
    uint32_t avoid_count;
    const gantry_reference *from;        /* the repository that is asked */
    const gantry_descriptor *descriptor; /* what is wanted; size 0 if unknown */
    uint64_t offset;                     /* bytes the core has already */
    uint64_t length;                     /* 0: to the end */
    const char *const *avoid;            /* endpoints whose bytes were wrong; try them last or never */
    const gantry_credential *credential; /* or NULL */
    int32_t is_manifest;                 /* manifests live at another URL than blobs */
    int32_t reserved;
} gantry_fetch;

/* Supplies a blob for push. read returns bytes at `at`; *got 0 at the end. */
typedef struct gantry_blob_source {
    uint32_t struct_size;
    uint32_t reserved;
    void *ctx;
    /* [call] */
    gantry_status (*read)(void *ctx, uint64_t at, void *buffer, size_t size, size_t *got);
} gantry_blob_source;

/* [borrowed] */
typedef struct gantry_push {
    uint32_t struct_size;
    int32_t is_manifest;
    const gantry_reference *to; /* manifests: tag or digest to put */
    const gantry_descriptor *descriptor;
    const gantry_credential *credential;
    const char *mount_from; /* repository of the same registry that may have the blob, or "" */
} gantry_push;

/* One line of an explanation. [borrowed] */
typedef struct gantry_endpoint_line {
    uint32_t struct_size;
    int32_t can_pull;    /* bytes by digest */
    int32_t can_resolve; /* say what a tag means */
    int32_t can_push;
    const char *url;
    const char *role;   /* "mirror" or "origin" */
    const char *state;  /* "ok", "unknown", "resting until ...", "blocked" */
    const char *reason; /* why it stands here, e.g. "[registry.oci.hosts.\"docker.io\"] mirrors[0]" */
    /* ABI 1.1: what the driver remembers of it. */
    const char *registry;      /* whose endpoint it is: "docker.io", "*" for any; "" or NULL: as asked */
    int64_t latency_ns;        /* until an answer begins; -1 unknown */
    uint64_t bytes_per_second; /* while blobs came; 0 unknown */
    uint64_t bytes_served;     /* by this engine, since it was made */
    uint32_t successes;
    uint32_t failures;  /* of requests that the endpoint is to blame for */
    int64_t resting_ns; /* how long it will be asked last; 0: not resting */
} gantry_endpoint_line;

typedef struct gantry_endpoint_line_sink {
    uint32_t struct_size;
    uint32_t reserved;
    void *ctx;
    /* [call] */
    gantry_status (*add)(void *ctx, const gantry_endpoint_line *line);
} gantry_endpoint_line_sink;

/* [borrowed] */
typedef struct gantry_search_result {
    uint32_t struct_size;
    int32_t stars;
    const char *name;
    const char *description;
    int32_t official;
    int32_t automated;
} gantry_search_result;

typedef struct gantry_search_sink {
    uint32_t struct_size;
    uint32_t reserved;
    void *ctx;
    /* [call] */
    gantry_status (*add)(void *ctx, const gantry_search_result *result);
} gantry_search_sink;

typedef struct gantry_registry_v1 {
    uint32_t struct_size;
    uint32_t reserved;

    /* [any] Does this driver want references of that registry? Cheap, no network. A chain of
     * drivers is asked in the order of the configuration. */
    gantry_status (*handles)(gantry_driver *driver, const gantry_call *call, const gantry_reference *ref,
                             int32_t *yes);

    /* [any] What does the reference mean now? Only endpoints with the right to resolve are asked.
     * `body` may be NULL; else the manifest's or index's bytes are written to it as served (at most
     * 4 MiB), which spares a second request. GANTRY_NOT_FOUND: every endpoint that may say so says
     * that there is no such thing. */
    gantry_status (*resolve)(gantry_driver *driver, const gantry_call *call, const gantry_reference *ref,
                             const gantry_credential *credential, const gantry_descriptor_sink *sink,
                             const gantry_byte_sink *body);

    /* [any] Bytes of a manifest or blob by digest, from any endpoint, changing endpoint at the byte
     * reached when one fails. Reports progress in bytes. Not verified here. */
    gantry_status (*fetch)(gantry_driver *driver, const gantry_call *call, const gantry_fetch *fetch,
                           const gantry_blob_sink *sink);

    /* [any] May be NULL (read-only source). Puts a blob or manifest to the origin and nowhere else;
     * GANTRY_ALREADY_EXISTS when it is there. */
    gantry_status (*push)(gantry_driver *driver, const gantry_call *call, const gantry_push *push,
                          const gantry_blob_source *source);

    /* [any] May be NULL. */
    gantry_status (*tags)(gantry_driver *driver, const gantry_call *call, const gantry_reference *ref,
                          const gantry_credential *credential, const gantry_string_sink *sink);

    /* [any] May be NULL. */
    gantry_status (*search)(gantry_driver *driver, const gantry_call *call, const char *registry,
                            const char *term, uint32_t limit, const gantry_credential *credential,
                            const gantry_search_sink *sink);

    /* [any] Endpoints in the order in which they would be tried. No network. */
    gantry_status (*explain)(gantry_driver *driver, const gantry_call *call, const gantry_reference *ref,
                             const gantry_endpoint_line_sink *sink);

    /* [any] Checks credentials against the registry; *identity_token sink gets a token or nothing. */
    gantry_status (*login)(gantry_driver *driver, const gantry_call *call,
                           const gantry_credential *credential, const gantry_string_sink *token);

    /* ABI 1.1 from here on. */

    /* [any] May be NULL. The manifests that refer to `ref`, which has a digest: an OCI image index as
     * served (at most 4 MiB), of `artifact_type` alone unless that is "". Not verified, and from any
     * endpoint: a signature proves itself. GANTRY_NOT_FOUND or GANTRY_UNSUPPORTED: no endpoint has such
     * a list. */
    gantry_status (*referrers)(gantry_driver *driver, const gantry_call *call, const gantry_reference *ref,
                               const char *artifact_type, const gantry_credential *credential,
                               const gantry_byte_sink *index);

    /* [any] May be NULL. Every endpoint that is configured or was met, with what is remembered of it.
     * No network. */
    gantry_status (*status)(gantry_driver *driver, const gantry_call *call,
                            const gantry_endpoint_line_sink *sink);

    /* [any] May be NULL. Asks each endpoint of the reference's registry now, whatever its state, and
     * reports what it found; with a repository and a tag or digest it reads a little of it to measure the
     * speed. An endpoint that fails is a line that says so, not a failure of the call. */
    gantry_status (*test)(gantry_driver *driver, const gantry_call *call, const gantry_reference *ref,
                          const gantry_credential *credential, const gantry_endpoint_line_sink *sink);
} gantry_registry_v1;

/* Sizes of the first release: what every host and plugin of ABI 1 may count on. */
#define GANTRY_ENDPOINT_LINE_SIZE_1_0 offsetof(gantry_endpoint_line, registry)
#define GANTRY_REGISTRY_V1_SIZE_1_0 offsetof(gantry_registry_v1, referrers)

#ifdef __cplusplus
}
#endif

#endif
