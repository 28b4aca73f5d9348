// The start plan: what the engine compiles from an OCI document and the shim executes. One flat buffer
// of length-prefixed records that needs no parser, no heap and no recursion on the privileged side. The
// shim calls valid() once; after that every accessor stays inside the buffer. Also holds the messages of
// the control socket, because both sides must agree on them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace gantry::plan {

constexpr uint32_t kMagic = 0x314e5047; // "GPN1"
constexpr uint32_t kVersion = 1;
constexpr uint32_t kMaxSize = 16u << 20;

enum Type : uint32_t {
    kOptions = 1, // the scalars: enum Number and enum Text
    kArg,         // text
    kEnv,         // text
    kNamespace,   // CLONE_NEW* flag; path to join or "" for a new one
    kCgroupDir,   // directory to be placed in, removed at the end
    kCgroupFile,  // required?; path, value: written in order before the process is released
    kRootMount,   // attributes; type, source, target, option...
    kMount,       // kind, attributes, propagation, optional?; source, target, type, option...
    kDevice,      // S_IF* | mode, major, minor, uid, gid; path
    kSymlink,     // text, path
    kMasked,      // path
    kReadOnly,    // path
    kSysctl,      // path below /proc/sys, value
    kIds,         // uid, gid, umask, supplementary gid...
    kCaps,        // bounding, effective, permitted, inheritable, ambient
    kRlimit,      // resource, soft, hard
    kSeccomp,     // BPF program as bytes
    kTypeEnd
};

enum Number : uint32_t {
    kFlags,
    kOomScore,
    kRows,
    kColumns,
    kLogMaxSize,
    kLogMaxFiles,
    kPropagation,
    kNumbers
};
enum Text : uint32_t {
    kCwd,
    kHostname,
    kDomainname,
    kLogPath,
    kExitPath,
    kRootPath,
    kRuntime,
    kBundle,
    kId,
    kTexts
};
enum Flag : uint64_t {
    kTerminal = 1,
    kOpenStdin = 2,
    kStdinOnce = 4,
    kInit = 8,
    kNoNewPrivs = 16,
    kRootReadOnly = 32,
    kHasOomScore = 64,
    kExec = 128
};
enum MountKind : uint64_t { kNewFs, kBind, kRecursiveBind };

struct Header {
    uint32_t magic, version, size, count;
};
struct Record {
    uint32_t type, size; // size of the payload: counts, numbers, then strings (u32 length, bytes, NUL)
    uint32_t numbers, strings;
};

/// Least numbers and strings of each type; valid() refuses a record that has fewer.
struct Shape {
    uint8_t numbers, strings;
};
constexpr Shape kShapes[kTypeEnd] = {{0, 0}, {kNumbers, kTexts},
                                     {0, 1}, {0, 1},
                                     {1, 1}, {0, 1},
                                     {1, 2}, {1, 3},
                                     {4, 3}, {5, 1},
                                     {0, 2}, {0, 1},
                                     {0, 1}, {0, 2},
                                     {3, 0}, {5, 0},
                                     {3, 0}, {0, 1}};

/// A cursor on one record. Only valid() may run on bytes that were not checked.
class View {
  public:
    explicit View(const char *at) : at_(at) {}
    Record head() const {
        Record r;
        memcpy(&r, at_, sizeof r);
        return r;
    }
    uint32_t type() const { return head().type; }
    uint32_t numbers() const { return head().numbers; }
    uint32_t strings() const { return head().strings; }
    uint64_t number(uint32_t index) const {
        uint64_t value = 0;
        if (index < numbers()) memcpy(&value, at_ + sizeof(Record) + 8 * size_t(index), 8);
        return value;
    }
    const char *text(uint32_t index, uint32_t *length = nullptr) const {
        if (length) *length = 0;
        if (index >= strings()) return "";
        const char *p = at_ + sizeof(Record) + 8 * size_t(numbers());
        for (;; index--) {
            uint32_t n;
            memcpy(&n, p, 4);
            if (index == 0) {
                if (length) *length = n;
                return p + 4;
            }
            p += 4 + size_t(n) + 1;
        }
    }
    const char *next() const { return at_ + sizeof(Record) + head().size; }

  private:
    const char *at_;
};

/// Every offset, count and terminator; exactly one kOptions record when `whole`.
inline bool valid(const char *data, size_t size, bool whole) {
    Header header;
    if (size < sizeof header || size > kMaxSize) return false;
    memcpy(&header, data, sizeof header);
    if (header.magic != kMagic || header.version != kVersion || header.size != size) return false;
    size_t at = sizeof header;
    uint32_t options = 0, ids = 0, caps = 0, args = 0;
    for (uint32_t i = 0; i < header.count; i++) {
        Record r;
        if (size - at < sizeof r) return false;
        memcpy(&r, data + at, sizeof r);
        at += sizeof r;
        if (r.size > size - at || r.type == 0 || r.type >= kTypeEnd) return false;
        if (r.numbers < kShapes[r.type].numbers || r.strings < kShapes[r.type].strings) return false;
        if (r.numbers > r.size / 8) return false;
        size_t p = at + 8 * size_t(r.numbers), end = at + r.size;
        for (uint32_t s = 0; s < r.strings; s++) {
            uint32_t n;
            if (end - p < 5) return false;
            memcpy(&n, data + p, 4);
            p += 4;
            if (n >= end - p || data[p + n] != 0) return false;
            if (r.type != kSeccomp && memchr(data + p, 0, n)) return false;
            p += size_t(n) + 1;
        }
        if (p != end) return false;
        if (r.type == kSeccomp) {
            uint32_t n;
            memcpy(&n, data + at + 8 * size_t(r.numbers), 4);
            if (n % 8 || n > 8 * 32768) return false;
        }
        options += r.type == kOptions, ids += r.type == kIds, caps += r.type == kCaps, args += r.type == kArg;
        at = end;
    }
    return at == size && (!whole || (options == 1 && ids == 1 && caps == 1 && args >= 1));
}

/// for (Cursor c(data); c.next();) c.view() — over one type, or all with type 0.
class Cursor {
  public:
    explicit Cursor(const char *data, uint32_t type = 0) : at_(data + sizeof(Header)), type_(type) {
        Header header;
        memcpy(&header, data, sizeof header);
        left_ = header.count;
    }
    bool next() {
        while (left_ > 0) {
            current_ = at_;
            at_ = View(at_).next();
            left_--;
            if (type_ == 0 || View(current_).type() == type_) return true;
        }
        return false;
    }
    View view() const { return View(current_); }

  private:
    const char *at_, *current_ = nullptr;
    uint32_t type_, left_;
};

// ---- control socket (SOCK_SEQPACKET): one Message per packet, then `length` bytes of text ----

enum Command : uint32_t {
    kPrepare = 1, // fd: plan with namespaces and cgroups [, pidfd of the container: exec]
    kStart,       // fd: plan
    kAttach,      // fd: connection; a: AttachFlag; text: detach keys
    kResize,      // a: rows, b: columns
    kKill,        // a: signal, b: 1 for the whole process group
    kStatus,
    kEnd,        // ends a sandbox that was not started
    kReady = 32, // a: pid, time: the shim's own; fds: pidfd, network namespace
    kStarted,    // as kReady, b: 1 for an exec (also the answer to kStatus)
    kFailed,     // a: gantry_status, b: errno; text. To kStatus, a: pid of a process not yet running, or 0
    kExited,     // a: wait status, b: 1 oom; time
};
enum AttachFlag : uint32_t { kAttachIn = 1, kAttachOut = 2, kAttachErr = 4, kAttachFramed = 8 };

struct Message {
    uint32_t command, a, b, length;
    int64_t time_ns;
};
constexpr size_t kMaxText = 4096;
constexpr int kControlFd = 3, kListenFd = 4;
/// Where an external runtime's container finds the shim as its init: `PATH -- COMMAND...`.
constexpr const char *kInitPath = "/sbin/docker-init";

} // namespace gantry::plan
