/* onnxruntime's operator vimzoo::ScanPaths: the scan of scan_paths.c in sessions that register this library.
 *
 * `vimzoo.onnxruntime_extension` builds it. It is linked with no part of onnxruntime. Inputs: those of the nodes that
 * vimzoo.export writes, in float32; rates (K or 1, N, D) and dt_weight (K or 1, R, D) have the channels last.
 */
#include <algorithm>
#include <atomic>
#include <new>
#include <thread>

#include "../selective_scan/kernel_calls.h"
#include "interface.h"

namespace {

using onnxruntime::Object;
using onnxruntime::Status;

enum Input { X, X_DBL, RATES, DT_WEIGHT, DT_BIAS, HEIGHT, WIDTH, SKIP, GATE, TABLE, INPUTS };
enum { QUIET_RUNS = 64 };
onnxruntime::Functions api;

/* The status of a call that may throw. */
template <class Call> Status *guarded(Call call) {
    try {
        call();
        return nullptr;
    } catch (const std::exception &error) {
        return api.call<Status *>(onnxruntime::CREATE_STATUS, int(onnxruntime::FAIL), error.what());
    }
}

struct Tensor {
    const void *data = nullptr;
    std::vector<int64_t> shape;
    Tensor() = default;
    explicit Tensor(const Object *value) {
        if (!value) return;
        Object *info;
        size_t axes;
        api(onnxruntime::TENSOR_INFO, value, &info);
        api(onnxruntime::AXES, static_cast<const Object *>(info), &axes);
        shape.resize(axes);
        api(onnxruntime::SHAPE, static_cast<const Object *>(info), shape.data(), axes);
        api.call<void>(onnxruntime::RELEASE_TENSOR_INFO, info);
        void *found;
        api(onnxruntime::TENSOR_DATA, const_cast<Object *>(value), &found);
        data = found;
    }
    template <class T> const T *as() const { return static_cast<const T *>(data); }
    explicit operator bool() const { return data != nullptr; }
};

/* (K, N, D) as (K, D, N). */
std::vector<float> turned(const Tensor &tensor) {
    const int64_t K = tensor.shape[0], N = tensor.shape[1], D = tensor.shape[2];
    std::vector<float> result(K * N * D);
    for (int64_t k = 0; k < K; k++)
        for (int64_t n = 0; n < N; n++)
            for (int64_t d = 0; d < D; d++) result[(k * D + d) * N + n] = tensor.as<float>()[(k * N + n) * D + d];
    return result;
}

struct Kernel {
    std::vector<int64_t> codes;
    bool merge;
    std::vector<float> A, dt_weight; /* empty where the model computes them */
    std::atomic<int> quiet{0};

    explicit Kernel(const Object *info) {
        size_t count = 0, inputs;
        api(onnxruntime::ATTRIBUTE_ARRAY, info, "codes", static_cast<int64_t *>(nullptr), &count);
        codes.resize(count);
        api(onnxruntime::ATTRIBUTE_ARRAY, info, "codes", codes.data(), &count);
        int64_t merged;
        api(onnxruntime::ATTRIBUTE, info, "merge", &merged);
        merge = merged != 0;
        api(onnxruntime::NODE_INPUT_COUNT, info, &inputs);
        const auto constant = [&](size_t i) {
            int known = 0;
            const Object *value = nullptr;
            if (i < inputs) api(onnxruntime::CONSTANT_INPUT, info, i, &known, &value);
            return Tensor(known ? value : nullptr);
        };
        if (const auto rates = constant(RATES)) A = turned(rates);
        if (const auto weight = constant(DT_WEIGHT)) dt_weight = turned(weight);
    }

    void run(Object *context) {
        Tensor in[INPUTS];
        size_t given;
        api(onnxruntime::INPUT_COUNT, static_cast<const Object *>(context), &given);
        for (size_t i = 0; i < std::min<size_t>(given, INPUTS); i++) {
            const Object *value;
            api(onnxruntime::INPUT, static_cast<const Object *>(context), i, &value);
            in[i] = Tensor(value);
        }
        const auto &x = in[X].shape, &rows = in[X_DBL].shape;
        const int64_t channels = x.back(), length = x[1], steps = in[TABLE] ? in[TABLE].shape[1] : length;
        const vimzoo::Sizes sizes{
            x[0], length, x.size() == 4 ? x[2] : 1, channels, rows[2], rows[3], in[RATES].shape[1], in[DT_WEIGHT].shape[1], steps,
            *in[HEIGHT].as<int64_t>(), *in[WIDTH].as<int64_t>(), in[RATES].shape[0], in[DT_WEIGHT].shape[0],
            in[DT_BIAS].shape[0], in[SKIP] ? in[SKIP].shape[0] : 1};
        auto call = vimzoo::scan_of(sizes, 0, codes, merge);
        call.x = in[X].as<char>(), call.x_dbl = in[X_DBL].as<char>(), call.dt_bias = in[DT_BIAS].as<float>();
        const auto rates = A.empty() ? turned(in[RATES]) : std::vector<float>();
        const auto weight = dt_weight.empty() ? turned(in[DT_WEIGHT]) : std::vector<float>();
        call.A = A.empty() ? rates.data() : A.data();
        call.dt_weight = dt_weight.empty() ? weight.data() : dt_weight.data();
        call.table = in[TABLE].as<int32_t>();
        call.D = in[SKIP].as<float>(), call.z = in[GATE].as<char>();
        std::vector<int64_t> shape{x[0], length, channels};
        if (!merge) shape = {x[0], int64_t(codes.size()), steps, channels};
        Object *output;
        api(onnxruntime::OUTPUT, context, size_t(0), static_cast<const int64_t *>(shape.data()), shape.size(), &output);
        void *out;
        api(onnxruntime::TENSOR_DATA, output, &out);
        call.out = static_cast<char *>(out);
        if (call.batch && length && channels) scan(context, call);
    }

    /* On the session's threads. Their number is not told: where one thread got all the parts, the next calls are not
     * divided, and now and then one is. */
    void scan(Object *context, scan_paths_args &call) {
        struct Session {
            Object *context;
            std::thread::id first;
            std::atomic<bool> several;
            vimzoo::Part part;
            void *loop;
        } session{context, std::this_thread::get_id(), {false}, nullptr, nullptr};
        const vimzoo::Borrowed borrowed(
            [](void *runtime, int64_t parts, vimzoo::Part part, void *loop) {
                auto &mine = *static_cast<Session *>(runtime);
                mine.part = part, mine.loop = loop;
                void (*const one)(void *, size_t) = [](void *data, size_t i) {
                    auto &of = *static_cast<Session *>(data);
                    if (std::this_thread::get_id() != of.first) of.several = true;
                    of.part(of.loop, int64_t(i));
                };
                api(onnxruntime::PARALLEL_FOR, static_cast<const Object *>(mine.context), one, size_t(parts), size_t(0), runtime);
            },
            &session);
        const auto threads = std::min<int64_t>(std::thread::hardware_concurrency(), int64_t(vimzoo::nanoseconds(call) / GRAIN));
        if (threads > 1 && quiet.fetch_add(1) % QUIET_RUNS == 0) call.threads = threads;
        if (vimzoo_scan_paths_forward(&call)) {
            vimzoo_forget_shortage();
            throw std::bad_alloc();
        }
        if (session.several) quiet = 0;
    }
};

onnxruntime::Operator made() {
    using onnxruntime::Operator;
    Operator scan;
    scan.name = [](const Operator *) { return "ScanPaths"; };
    scan.provider = [](const Operator *) -> const char * { return nullptr; }; /* the CPU's */
    scan.inputs = [](const Operator *) -> size_t { return INPUTS; };
    scan.outputs = [](const Operator *) -> size_t { return 1; };
    scan.input_type = [](const Operator *, size_t i) {
        if (i == TABLE) return onnxruntime::INT32;
        return i == HEIGHT || i == WIDTH ? onnxruntime::INT64 : onnxruntime::FLOAT;
    };
    scan.output_type = [](const Operator *, size_t) { return onnxruntime::FLOAT; };
    scan.input_presence = [](const Operator *, size_t i) {
        return i < SKIP ? onnxruntime::REQUIRED : onnxruntime::OPTIONAL;
    };
    scan.output_presence = [](const Operator *, size_t) { return onnxruntime::REQUIRED; };
    scan.input_memory = [](const Operator *, size_t) { return 0; };
    for (auto &count : scan.variadic) count = [](const Operator *) { return 1; };
    scan.create_safely = [](const Operator *, void *const *, const Object *info, void **kernel) {
        return guarded([&] { *kernel = new Kernel(info); });
    };
    scan.compute_safely = [](void *kernel, Object *context) {
        return guarded([&] { static_cast<Kernel *>(kernel)->run(context); });
    };
    scan.destroy = [](void *kernel) { delete static_cast<Kernel *>(kernel); };
    return scan;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) Status *RegisterCustomOps(
    Object *options, const onnxruntime::Base *base) {
    static const onnxruntime::Operator scan = made();
    void *const *table = base->functions(onnxruntime::VERSION);
    if (!table) return nullptr; /* an older release, which runs the file's function */
    api = onnxruntime::Functions(table);
    return guarded([&] {
        Object *domain; /* never released: sessions keep it */
        api(onnxruntime::CREATE_DOMAIN, "vimzoo", &domain);
        api(onnxruntime::ADD_TO_DOMAIN, domain, &scan);
        api(onnxruntime::ADD_DOMAIN, options, domain);
    });
}
