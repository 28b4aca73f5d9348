// The corpora as ordinary tests: what a fuzzer once found stays found. Every input also comes truncated,
// which is what a cut connection or file makes of it.
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <string>
#include <unistd.h>

#define FUZZERS(X)                                                                                           \
    X(layer)                                                                                                 \
    X(config)                                                                                                \
    X(reference) X(manifest) X(archive) X(http) X(create) X(judgement) X(template) X(plan) X(answers)
#define DECLARE(name) extern "C" int fuzz_##name(const uint8_t *data, size_t size);
FUZZERS(DECLARE)

namespace {

struct Fuzzer {
    const char *name;
    int (*take)(const uint8_t *, size_t);
};
#define ROW(name) {#name, fuzz_##name},
const Fuzzer kFuzzers[] = {FUZZERS(ROW)};

class Corpus : public testing::TestWithParam<Fuzzer> {};

TEST_P(Corpus, IsTaken) {
    const Fuzzer &fuzzer = GetParam();
    if (std::string(fuzzer.name) == "layer" && ::geteuid() != 0) GTEST_SKIP() << "needs root: devices";
    int inputs = 0;
    for (const auto &file : std::filesystem::directory_iterator(std::string(CORPUS "/") + fuzzer.name)) {
        SCOPED_TRACE(file.path());
        std::ifstream in(file.path(), std::ios::binary);
        const std::string all(std::istreambuf_iterator<char>(in), {});
        for (const size_t size : {all.size(), all.size() / 2, all.size() - all.size() / 8, size_t(0)}) {
            const std::string part = all.substr(0, size); // its own memory: reading on is seen
            EXPECT_EQ(fuzzer.take(reinterpret_cast<const uint8_t *>(part.data()), part.size()), 0);
        }
        ++inputs;
    }
    EXPECT_GT(inputs, 0) << "no corpus";
}

INSTANTIATE_TEST_SUITE_P(Fuzz, Corpus, testing::ValuesIn(kFuzzers),
                         [](const auto &info) { return std::string(info.param.name); });

} // namespace
