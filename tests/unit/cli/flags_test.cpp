// The grammar and the error texts of pflag, sizes, durations and the columns of tables.
#include "core/cli/flags.h"
#include "core/cli/format.h"
#include "core/cli/stream.h"

#include <gantry/error.hpp>

#include <gtest/gtest.h>

namespace gantry::cli {
namespace {

constexpr Flag kFlags[] = {
    {"interactive", 'i', FlagType::kBool, "in"}, {"tty", 't', FlagType::kBool, "tty"},
    {"publish", 'p', FlagType::kList, "ports"},  {"env", 'e', FlagType::kList, "env"},
    {"name", 0, FlagType::kString, "name"},      {"rm", 0, FlagType::kBool, "rm"},
    {"last", 'n', FlagType::kInt, "last"},       {"memory", 'm', FlagType::kBytes, "memory"}};

ParsedFlags parse(const std::vector<std::string> &args, bool stop = true) {
    return parse_flags(kFlags, args, stop);
}
std::string message_of(const std::vector<std::string> &args) {
    try {
        parse(args);
    } catch (const FlagError &error) {
        return error.message;
    }
    return "no error";
}

TEST(Flags, CombineAndStop) {
    ParsedFlags flags = parse({"-itp8080:80", "-p=1:2", "--name=x", "-e", "A=-b", "--rm=false", "image", "-t",
                               "--bogus", "--", "x"});
    EXPECT_TRUE(flags.is_set("interactive"));
    EXPECT_TRUE(flags.is_set("tty"));
    EXPECT_FALSE(flags.is_set("rm"));
    EXPECT_TRUE(flags.has("rm"));
    EXPECT_EQ(flags.list("publish"), (std::vector<std::string>{"8080:80", "1:2"}));
    EXPECT_EQ(flags.get("name"), "x");
    EXPECT_EQ(flags.positional, (std::vector<std::string>{"image", "-t", "--bogus", "--", "x"}));
}

TEST(Flags, Interspersed) {
    ParsedFlags flags = parse({"a", "-t", "b", "-", "--", "-i"}, false);
    EXPECT_TRUE(flags.is_set("tty"));
    EXPECT_FALSE(flags.is_set("interactive"));
    EXPECT_EQ(flags.positional, (std::vector<std::string>{"a", "b", "-", "-i"}));
}

TEST(Flags, ErrorsAsPflag) {
    EXPECT_EQ(message_of({"--bogus"}), "unknown flag: --bogus");
    EXPECT_EQ(message_of({"--na", "x"}), "unknown flag: --na") << "no guessing of prefixes";
    EXPECT_EQ(message_of({"-tx"}), "unknown shorthand flag: 'x' in -x");
    EXPECT_EQ(message_of({"--name"}), "flag needs an argument: --name");
    EXPECT_EQ(message_of({"-te"}), "flag needs an argument: 'e' in -e");
    EXPECT_EQ(
        message_of({"-n", "x"}),
        "invalid argument \"x\" for \"-n, --last\" flag: strconv.ParseInt: parsing \"x\": invalid syntax");
    EXPECT_EQ(message_of({"--memory=12q"}),
              "invalid argument \"12q\" for \"-m, --memory\" flag: invalid size: '12q'");
    EXPECT_EQ(
        message_of({"--rm=maybe"}),
        "invalid argument \"maybe\" for \"--rm\" flag: strconv.ParseBool: parsing \"maybe\": invalid syntax");
}

TEST(Values, BytesAndDurations) {
    EXPECT_EQ(parse_bytes("512"), 512);
    EXPECT_EQ(parse_bytes("64m"), 64 << 20);
    EXPECT_EQ(parse_bytes("1.5g"), 1610612736);
    EXPECT_EQ(parse_bytes("2KiB"), 2048);
    EXPECT_EQ(parse_bytes("3Mb"), 3 << 20);
    for (const char *bad : {"", "m", "-1", "1x", "1mm", "1e400", "99999999p", "nan", "inf"})
        EXPECT_THROW(parse_bytes(bad), FlagError) << bad;
    EXPECT_EQ(parse_duration("1m30s"), 90000000000);
    EXPECT_EQ(parse_duration("1.5s"), 1500000000);
    EXPECT_EQ(parse_duration("300ms"), 300000000);
    for (const char *bad : {"", "5", "s", "-1s", "1y", "1s2", "99999999h"})
        EXPECT_THROW(parse_duration(bad), FlagError) << bad;
}

TEST(Format, Sizes) {
    EXPECT_EQ(human_size(0), "0B");
    EXPECT_EQ(human_size(999), "999B");
    EXPECT_EQ(human_size(1000), "1kB");
    EXPECT_EQ(human_size(1234567), "1.23MB");
    EXPECT_EQ(human_size(36450, 4), "36.45kB");
    EXPECT_EQ(human_size(1e9), "1GB");
}

TEST(Format, Durations) {
    EXPECT_EQ(human_duration(0), "Less than a second");
    EXPECT_EQ(human_duration(1), "1 second");
    EXPECT_EQ(human_duration(59), "59 seconds");
    EXPECT_EQ(human_duration(60), "About a minute");
    EXPECT_EQ(human_duration(120), "2 minutes");
    EXPECT_EQ(human_duration(3600), "About an hour");
    EXPECT_EQ(human_duration(7200), "2 hours");
    EXPECT_EQ(human_duration(3 * 86400), "3 days");
    EXPECT_EQ(human_duration(21 * 86400), "3 weeks");
    EXPECT_EQ(human_duration(90 * 86400), "3 months");
    EXPECT_EQ(human_duration(1000ll * 86400), "2 years");
}

TEST(Format, Times) {
    int32_t nanos = 0;
    EXPECT_EQ(parse_rfc3339("1970-01-02T00:00:01.5Z", &nanos), 86401);
    EXPECT_EQ(nanos, 500000000);
    EXPECT_EQ(parse_rfc3339("1970-01-01T02:00:00+02:00"), 0);
    EXPECT_EQ(parse_rfc3339("yesterday"), -1);
    EXPECT_EQ(format_utc(0), "1970-01-01 00:00:00 +0000 UTC");
    EXPECT_EQ(to_timestamp("1h", 10000), "6400");
    EXPECT_EQ(to_timestamp("1700000000", 10000), "1700000000");
    EXPECT_EQ(to_timestamp("1970-01-02", 0), "86400.000000000");
}

TEST(Format, Columns) {
    EXPECT_EQ(align_columns({"ID\tNAME\tX", "1234567890123\té\tlast"}),
              "ID              NAME      X\n1234567890123   é         last\n");
    EXPECT_EQ(ellipsis("abcdef", 4), "abc…");
    EXPECT_EQ(ellipsis("äöüß", 4), "äöüß");
    EXPECT_EQ(short_id("sha256:0123456789abcdef"), "0123456789ab");
    EXPECT_EQ(printable("a\x1b[31m\n"), "a?[31m?");
}

TEST(Stream, DetachKeys) {
    DetachFilter filter("ctrl-p,ctrl-q");
    bool detached = false;
    EXPECT_EQ(filter.feed("ab\x10", detached), "ab");
    EXPECT_EQ(filter.feed("c", detached), "\x10"
                                          "c")
        << "a lone ctrl-p is passed on with the next key";
    EXPECT_FALSE(detached);
    EXPECT_EQ(filter.feed("x\x10\x10", detached), "x\x10") << "the second ctrl-p may begin the sequence";
    EXPECT_EQ(filter.feed("\x11tail", detached), "");
    EXPECT_TRUE(detached);
    EXPECT_THROW(DetachFilter("ctrl-"), FlagError);
    EXPECT_THROW(DetachFilter("ctrl-1"), FlagError);
}

TEST(Stream, Demultiplexes) {
    using namespace std::string_literals;
    std::string out, err, wire = "\1\0\0\0\0\0\0\5hello\2\0\0\0\0\0\0\3err\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\1!"s;
    for (size_t step : {1u, 3u, 1000u}) { // frames may be cut anywhere
        out.clear();
        err.clear();
        Demultiplexer demultiplexer(
            [&](int stream, std::string_view bytes) { (stream == 2 ? err : out) += bytes; });
        for (size_t at = 0; at < wire.size(); at += step)
            demultiplexer.feed(std::string_view(wire).substr(at, step));
        EXPECT_EQ(out, "hello!");
        EXPECT_EQ(err, "err");
    }
    Demultiplexer bad([](int, std::string_view) {});
    EXPECT_THROW(bad.feed("HTTP/1.1 500"), Error);
}

} // namespace
} // namespace gantry::cli
