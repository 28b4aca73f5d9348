// Policy -> BPF. libseccomp only gives numbers for names; the program is ours: per architecture the
// system calls become sorted ranges with the same verdict, searched by a binary tree, because what a
// filter costs is the length of the path, paid at every call of the container. Numbers above the
// highest that the policy knows give ENOSYS, so that programs fall back instead of failing (runc 1.1).
#include "core/runtime/plan_writer.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <fmt/format.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <map>
#include <mutex>
#include <seccomp.h>

namespace gantry {
namespace {

constexpr uint32_t kX32Bit = 0x40000000;
constexpr size_t kMaxInstructions = 4096; // BPF_MAXINSNS

struct Condition {
    uint32_t index;
    uint64_t value, mask;
    std::string op;
};
struct Verdict {
    std::vector<std::pair<std::vector<Condition>, uint32_t>> conditional;
    std::optional<uint32_t> always;
};
struct Range {
    uint32_t first;
    uint32_t action;
    const Verdict *verdict; // instead of action
};

uint32_t action_code(const std::string &action, std::optional<uint32_t> errno_ret) {
    uint32_t data = errno_ret.value_or(1) & 0xffff;
    if (action == "SCMP_ACT_ALLOW") return SECCOMP_RET_ALLOW;
    if (action == "SCMP_ACT_ERRNO") return SECCOMP_RET_ERRNO | data;
    if (action == "SCMP_ACT_KILL" || action == "SCMP_ACT_KILL_THREAD") return SECCOMP_RET_KILL_THREAD;
    if (action == "SCMP_ACT_KILL_PROCESS") return SECCOMP_RET_KILL_PROCESS;
    if (action == "SCMP_ACT_TRAP") return SECCOMP_RET_TRAP;
    if (action == "SCMP_ACT_TRACE") return SECCOMP_RET_TRACE | data;
    if (action == "SCMP_ACT_LOG") return SECCOMP_RET_LOG;
    throw Error(ErrorClass::kInvalidArgument, "compile seccomp profile: unknown action " + action);
}

using Program = std::vector<sock_filter>;

void put(Program &out, uint16_t code, uint32_t k, uint8_t jt = 0, uint8_t jf = 0) {
    out.push_back({code, jt, jf, k});
}
void put_return(Program &out, uint32_t action) { put(out, BPF_RET | BPF_K, action); }

/// Code that falls through to its end when `c` holds and else jumps `fail` instructions behind its end.
Program condition_code(const Condition &c, bool wide) {
    constexpr uint32_t kArgs = offsetof(seccomp_data, args);
    uint32_t low = kArgs + 8 * c.index, high = low + 4, value_low = uint32_t(c.value),
             value_high = uint32_t(c.value >> 32);
    constexpr uint8_t kFail = 255; // patched by the caller
    Program p;
    constexpr uint16_t kLoad = BPF_LD | BPF_W | BPF_ABS, kEq = BPF_JMP | BPF_JEQ | BPF_K,
                       kGt = BPF_JMP | BPF_JGT | BPF_K, kGe = BPF_JMP | BPF_JGE | BPF_K,
                       kAnd = BPF_ALU | BPF_AND | BPF_K;
    if (c.op == "SCMP_CMP_EQ" || c.op == "SCMP_CMP_MASKED_EQ") {
        bool masked = c.op != "SCMP_CMP_EQ";
        if (wide) {
            put(p, kLoad, high);
            if (masked) put(p, kAnd, uint32_t(c.mask >> 32));
            put(p, kEq, value_high, 0, kFail);
        }
        put(p, kLoad, low);
        if (masked) put(p, kAnd, uint32_t(c.mask));
        put(p, kEq, value_low, 0, kFail);
    } else if (c.op == "SCMP_CMP_NE") {
        if (wide) put(p, kLoad, high), put(p, kEq, value_high, 0, 2);
        put(p, kLoad, low), put(p, kEq, value_low, kFail, 0);
    } else if (c.op == "SCMP_CMP_GT" || c.op == "SCMP_CMP_GE") {
        uint16_t last = c.op == "SCMP_CMP_GT" ? kGt : kGe;
        if (wide) put(p, kLoad, high), put(p, kGt, value_high, 3, 0), put(p, kEq, value_high, 0, kFail);
        put(p, kLoad, low), put(p, last, value_low, 0, kFail);
    } else if (c.op == "SCMP_CMP_LT" || c.op == "SCMP_CMP_LE") {
        uint16_t last = c.op == "SCMP_CMP_LE" ? kGt : kGe; // holds when this does not
        if (wide) put(p, kLoad, high), put(p, kGt, value_high, kFail, 0), put(p, kEq, value_high, 0, 2);
        put(p, kLoad, low), put(p, last, value_low, kFail, 0);
    } else {
        throw Error(ErrorClass::kInvalidArgument, "compile seccomp profile: unknown comparison " + c.op);
    }
    return p;
}

void put_verdict(Program &out, const Verdict &verdict, uint32_t otherwise, bool wide) {
    for (const auto &[conditions, action] : verdict.conditional) {
        Program block;
        std::vector<size_t> ends;
        for (const auto &condition : conditions) {
            Program part = condition_code(condition, wide);
            block.insert(block.end(), part.begin(), part.end());
        }
        put_return(block, action);
        if (block.size() > 200)
            throw Error(ErrorClass::kInvalidArgument,
                        "compile seccomp profile: too many arguments in a rule");
        for (size_t i = 0; i < block.size(); i++) {
            if (BPF_CLASS(block[i].code) != BPF_JMP) continue;
            if (block[i].jt == 255) block[i].jt = uint8_t(block.size() - i - 1);
            if (block[i].jf == 255) block[i].jf = uint8_t(block.size() - i - 1);
        }
        out.insert(out.end(), block.begin(), block.end());
    }
    put_return(out, verdict.always.value_or(otherwise));
}

Program tree(const std::vector<Range> &ranges, size_t from, size_t to, uint32_t otherwise, bool wide) {
    Program out;
    if (to - from == 1) {
        if (ranges[from].verdict)
            put_verdict(out, *ranges[from].verdict, otherwise, wide);
        else
            put_return(out, ranges[from].action);
        return out;
    }
    size_t middle = from + (to - from) / 2;
    Program left = tree(ranges, from, middle, otherwise, wide),
            right = tree(ranges, middle, to, otherwise, wide);
    if (left.size() <= 255) {
        put(out, BPF_JMP | BPF_JGE | BPF_K, ranges[middle].first, uint8_t(left.size()), 0);
    } else {
        put(out, BPF_JMP | BPF_JGE | BPF_K, ranges[middle].first, 0, 1);
        put(out, BPF_JMP | BPF_JA, uint32_t(left.size()));
    }
    out.insert(out.end(), left.begin(), left.end());
    out.insert(out.end(), right.begin(), right.end());
    return out;
}

struct Arch {
    const char *name;
    uint32_t token, audit, bit;
    bool wide; // x32 passes 64 bits, but its arguments are 32-bit values
};
constexpr Arch kArchs[] = {
    {"SCMP_ARCH_X86_64", SCMP_ARCH_X86_64, AUDIT_ARCH_X86_64, 0, true},
    {"SCMP_ARCH_X32", SCMP_ARCH_X32, AUDIT_ARCH_X86_64, kX32Bit, false},
    {"SCMP_ARCH_X86", SCMP_ARCH_X86, AUDIT_ARCH_I386, 0, false},
    {"SCMP_ARCH_AARCH64", SCMP_ARCH_AARCH64, AUDIT_ARCH_AARCH64, 0, true},
    {"SCMP_ARCH_ARM", SCMP_ARCH_ARM, AUDIT_ARCH_ARM, 0, false},
};

/// 32-bit x86 has each socket and IPC call twice: through socketcall/ipc, which libseccomp's pseudo
/// numbers stand for, and directly since 4.3 and 5.1. The filter decides on the direct numbers.
int system_call_number(const Arch &arch, const std::string &name) {
    static const std::map<std::string, int> kDirect = {
        {"recvmmsg", 337},   {"sendmmsg", 345},   {"socket", 359},      {"socketpair", 360},
        {"bind", 361},       {"connect", 362},    {"listen", 363},      {"accept4", 364},
        {"getsockopt", 365}, {"setsockopt", 366}, {"getsockname", 367}, {"getpeername", 368},
        {"sendto", 369},     {"sendmsg", 370},    {"recvfrom", 371},    {"recvmsg", 372},
        {"shutdown", 373},   {"semget", 393},     {"semctl", 394},      {"shmget", 395},
        {"shmctl", 396},     {"shmat", 397},      {"shmdt", 398},       {"msgget", 399},
        {"msgsnd", 400},     {"msgrcv", 401},     {"msgctl", 402}};
    int number = seccomp_syscall_resolve_name_arch(arch.token, name.c_str());
    if (number >= 0 || arch.audit != AUDIT_ARCH_I386) return number;
    auto direct = kDirect.find(name);
    return direct == kDirect.end() ? -1 : direct->second;
}

Program arch_program(const SpecSeccomp &policy, const Arch &arch) {
    uint32_t otherwise = action_code(policy.default_action, policy.default_errno_ret);
    std::map<uint32_t, Verdict> verdicts;
    uint32_t last = arch.bit;
    for (const auto &rule : policy.rules) {
        uint32_t action = action_code(rule.action, rule.errno_ret);
        for (const auto &name : rule.names) {
            int number = system_call_number(arch, name);
            if (number < 0) continue; // not on this architecture
            last = std::max(last, uint32_t(number));
            if (action == otherwise) continue;
            Verdict &verdict = verdicts[uint32_t(number)];
            if (rule.args.empty()) {
                if (!verdict.always) verdict.always = action;
                continue;
            }
            std::vector<Condition> conditions;
            for (const auto &arg : rule.args) {
                if (arg.index > 5)
                    throw Error(ErrorClass::kInvalidArgument, "compile seccomp profile: bad argument index");
                bool masked = arg.op == "SCMP_CMP_MASKED_EQ";
                conditions.push_back({arg.index, masked ? arg.value_two : arg.value,
                                      masked ? arg.value : ~uint64_t(0), arg.op});
            }
            verdict.conditional.emplace_back(std::move(conditions), action);
        }
    }
    bool enosys = otherwise != SECCOMP_RET_ALLOW && otherwise != SECCOMP_RET_LOG &&
                  (otherwise & SECCOMP_RET_ACTION_FULL) != SECCOMP_RET_TRACE &&
                  otherwise != (SECCOMP_RET_ERRNO | 38);
    std::vector<Range> ranges;
    auto add = [&](uint32_t first, uint32_t action, const Verdict *verdict) {
        if (!ranges.empty() && !verdict && !ranges.back().verdict && ranges.back().action == action) return;
        ranges.push_back({first, action, verdict});
    };
    uint32_t next = arch.bit;
    for (auto &[number, verdict] : verdicts) {
        // A condition with the same outcome as the unconditional rule decides nothing.
        if (verdict.always)
            std::erase_if(verdict.conditional, [&](const auto &c) { return c.second == *verdict.always; });
        if (number > next) add(next, otherwise, nullptr);
        if (verdict.conditional.empty())
            add(number, verdict.always.value_or(otherwise), nullptr);
        else
            add(number, 0, &verdict);
        next = number + 1;
    }
    if (next <= last || ranges.empty()) add(next, otherwise, nullptr);
    add(last + 1, enosys ? SECCOMP_RET_ERRNO | 38u : otherwise, nullptr);
    return tree(ranges, 0, ranges.size(), otherwise, arch.wide);
}

void append(Program &out, const Program &part) { out.insert(out.end(), part.begin(), part.end()); }

Program compile(const SpecSeccomp &policy) {
    auto wanted = [&](const Arch &arch) {
        return std::find(policy.architectures.begin(), policy.architectures.end(), arch.name) !=
               policy.architectures.end();
    };
    Program out;
    put(out, BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch));
    auto section = [&](uint32_t audit, const Program &body) {
        // Not this architecture: over the body.
        put(out, BPF_JMP | BPF_JEQ | BPF_K, audit, 1, 0);
        put(out, BPF_JMP | BPF_JA, uint32_t(body.size() + 1));
        put(out, BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr));
        append(out, body);
    };
    bool any = false;
#ifdef __x86_64__
    const Arch &x64 = kArchs[0], &x32 = kArchs[1];
    // Without a list the native architecture is meant.
    bool native = policy.architectures.empty() || wanted(x64);
    if (native || wanted(x32)) {
        Program dead, body;
        put_return(dead, SECCOMP_RET_KILL_THREAD);
        Program low = native ? arch_program(policy, x64) : dead,
                high = wanted(x32) ? arch_program(policy, x32) : dead;
        put(body, BPF_JMP | BPF_JGE | BPF_K, kX32Bit, 0, 1);
        put(body, BPF_JMP | BPF_JA, uint32_t(low.size()));
        append(body, low), append(body, high);
        section(AUDIT_ARCH_X86_64, body);
        any = true;
    }
#endif
    for (const Arch &arch : kArchs)
        if (arch.audit != AUDIT_ARCH_X86_64 && wanted(arch))
            section(arch.audit, arch_program(policy, arch)), any = true;
    if (!any) throw Error(ErrorClass::kInvalidArgument, "compile seccomp profile: no known architecture");
    put_return(out, SECCOMP_RET_KILL_THREAD); // what libseccomp does with other architectures
    if (out.size() > kMaxInstructions)
        throw Error(ErrorClass::kInvalidArgument, "compile seccomp profile: the profile is too large");
    return out;
}

std::string key_of(const SpecSeccomp &policy) {
    std::string key =
        policy.default_action + fmt::format("{}", policy.default_errno_ret.value_or(0xffffffff));
    for (const auto &arch : policy.architectures)
        key += "\n" + arch;
    for (const auto &rule : policy.rules) {
        key += fmt::format("\n\n{} {}", rule.action, rule.errno_ret.value_or(0xffffffff));
        for (const auto &arg : rule.args)
            key += fmt::format(" {} {} {} {}", arg.index, arg.value, arg.value_two, arg.op);
        for (const auto &name : rule.names)
            key += " ", key += name;
    }
    return key;
}

} // namespace

std::string compile_seccomp(const SpecSeccomp &policy) {
    // Nearly every container has one of two or three policies; resolving 1,000 names costs more than a start.
    static std::mutex mutex;
    static std::map<std::string, std::string> known;
    std::string key = key_of(policy);
    {
        std::lock_guard lock(mutex);
        if (auto found = known.find(key); found != known.end()) return found->second;
    }
    Program program = compile(policy);
    std::string bytes(reinterpret_cast<const char *>(program.data()), program.size() * sizeof(sock_filter));
    std::lock_guard lock(mutex);
    if (known.size() >= 16) known.clear();
    return known[key] = bytes;
}

} // namespace gantry
