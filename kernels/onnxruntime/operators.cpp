/* onnxruntime's operators vimzoo::ScanPaths, CausalConv1d, Depthwise and Norm, in sessions that register this library.
 *
 * `vimzoo.onnxruntime_extension` builds it. It is linked with no part of onnxruntime. Inputs: those of the nodes that
 * vimzoo.export writes, dense and in float32; where an operator reads a part of the channels of a wider tensor, the attribute
 * `first` is its first. kernels/openvino/extension.cpp has the shapes.
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
    int64_t last() const { return shape.back(); }
    int64_t size() const {
        int64_t count = 1;
        for (const int64_t side : shape) count *= side;
        return count;
    }
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

/* A node, when its kernel is made. */
struct Node {
    const Object *info;
    int64_t number(const char *name) const { /* an attribute, or 0 */
        int64_t found = 0;
        Status *missing = api.call<Status *>(onnxruntime::ATTRIBUTE, info, name, &found);
        if (missing) api.call<void>(onnxruntime::RELEASE_STATUS, missing);
        return missing ? 0 : found;
    }
    std::vector<int64_t> numbers(const char *name) const {
        size_t count = 0;
        api(onnxruntime::ATTRIBUTE_ARRAY, info, name, static_cast<int64_t *>(nullptr), &count);
        std::vector<int64_t> found(count);
        api(onnxruntime::ATTRIBUTE_ARRAY, info, name, found.data(), &count);
        return found;
    }
    float decimal(const char *name) const {
        float found;
        api(onnxruntime::ATTRIBUTE_FLOAT, info, name, &found);
        return found;
    }
    Tensor constant(size_t i) const {
        int known = 0;
        size_t inputs;
        const Object *value = nullptr;
        api(onnxruntime::NODE_INPUT_COUNT, info, &inputs);
        if (i < inputs) api(onnxruntime::CONSTANT_INPUT, info, i, &known, &value);
        return Tensor(known ? value : nullptr);
    }
};

/* A run of a node. */
struct Run {
    Object *context;
    std::vector<Tensor> in;
    Run(Object *context, size_t inputs) : context(context), in(inputs) {
        size_t given;
        api(onnxruntime::INPUT_COUNT, static_cast<const Object *>(context), &given);
        for (size_t i = 0; i < std::min(given, inputs); i++) {
            const Object *value;
            api(onnxruntime::INPUT, static_cast<const Object *>(context), i, &value);
            in[i] = Tensor(value);
        }
    }
    char *output(const std::vector<int64_t> &shape) const {
        Object *output;
        api(onnxruntime::OUTPUT, context, size_t(0), shape.data(), shape.size(), &output);
        void *data;
        api(onnxruntime::TENSOR_DATA, output, &data);
        return static_cast<char *>(data);
    }
};

/* The session's threads. Their number is not told: where one thread got all the parts, the next calls are not divided, and now
 * and then one is. */
class Threads {
public:
    template <class Arguments> void compute(const Run &run, int (*kernel)(const Arguments *), Arguments &call, double nanoseconds) {
        struct Session {
            Object *context;
            std::thread::id first;
            std::atomic<bool> several;
            vimzoo::Part part;
            void *loop;
        } session{run.context, std::this_thread::get_id(), {false}, nullptr, nullptr};
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
        const auto threads = std::min<int64_t>(std::thread::hardware_concurrency(), int64_t(nanoseconds / vimzoo::RUNTIME_GRAIN));
        if (threads > 1 && quiet.fetch_add(1) % QUIET_RUNS == 0) call.threads = threads;
        if (kernel(&call)) {
            vimzoo_forget_shortage();
            throw std::bad_alloc();
        }
        if (session.several) quiet = 0;
    }

private:
    std::atomic<int> quiet{0};
};

/* Rates (K or 1, N, D) and dt_weight (K or 1, R, D) have the channels last. */
struct ScanPaths {
    static constexpr const char *NAME = "ScanPaths";
    enum Input { X, X_DBL, RATES, DT_WEIGHT, DT_BIAS, HEIGHT, WIDTH, SKIP, GATE, TABLE, INPUTS, REQUIRED = SKIP };
    std::vector<int64_t> codes;
    bool merge, planes;
    int64_t first;
    std::vector<float> A, dt_weight; /* empty where the model computes them */
    Threads threads;

    static onnxruntime::Type type(size_t i) {
        if (i == TABLE) return onnxruntime::INT32;
        return i == HEIGHT || i == WIDTH ? onnxruntime::INT64 : onnxruntime::FLOAT;
    }

    explicit ScanPaths(const Node &node)
        : codes(node.numbers("codes")), merge(node.number("merge")), planes(node.number("planes")), first(node.number("first")) {
        if (const auto rates = node.constant(RATES)) A = turned(rates);
        if (const auto weight = node.constant(DT_WEIGHT)) dt_weight = turned(weight);
    }

    void run(const Run &run) {
        const auto &in = run.in;
        const auto &x = in[X].shape, &rows = in[X_DBL].shape;
        const int64_t batch = x[planes], length = x[planes + 1], channels = x.back();
        const int64_t steps = in[TABLE] ? in[TABLE].shape[1] : length, each = planes ? 0 : 2;
        const vimzoo::Sizes sizes{
            batch, length, x.size() == 4 ? x[each] : 1, channels, rows[each], rows[3], in[RATES].shape[1], in[DT_WEIGHT].shape[1],
            steps, *in[HEIGHT].as<int64_t>(), *in[WIDTH].as<int64_t>(), in[RATES].shape[0], in[DT_WEIGHT].shape[0],
            in[DT_BIAS].shape[0], in[SKIP] ? in[SKIP].shape[0] : 1};
        auto call = vimzoo::scan_of(sizes, 0, codes, merge, planes);
        call.x = in[X].as<char>(), call.x_dbl = in[X_DBL].as<char>(), call.dt_bias = in[DT_BIAS].as<float>();
        const auto rates = A.empty() ? turned(in[RATES]) : std::vector<float>();
        const auto weight = dt_weight.empty() ? turned(in[DT_WEIGHT]) : std::vector<float>();
        call.A = A.empty() ? rates.data() : A.data();
        call.dt_weight = dt_weight.empty() ? weight.data() : dt_weight.data();
        call.table = in[TABLE].as<int32_t>(), call.D = in[SKIP].as<float>();
        if (in[GATE]) {
            call.z = (const char *)(in[GATE].as<float>() + first);
            call.z_l = in[GATE].last(), call.z_b = length * call.z_l;
        }
        if (merge) call.out = run.output({batch, length, channels});
        else call.out = run.output({batch, int64_t(codes.size()), steps, channels});
        if (batch && length && channels) threads.compute(run, vimzoo_scan_paths_forward, call, vimzoo::nanoseconds(call));
    }
};

struct CausalConv1d {
    static constexpr const char *NAME = "CausalConv1d";
    enum Input { X, WEIGHT, BIAS, INPUTS, REQUIRED = BIAS };
    std::vector<int64_t> reverse;
    bool silu;
    int64_t first;
    Threads threads;

    static onnxruntime::Type type(size_t) { return onnxruntime::FLOAT; }
    explicit CausalConv1d(const Node &node)
        : reverse(node.numbers("reverse")), silu(node.number("silu")), first(node.number("first")) {}

    void run(const Run &run) {
        const auto &x = run.in[X], &weight = run.in[WEIGHT];
        auto call = vimzoo::zeroed<causal_conv1d_args>();
        call.batch = x.shape[0], call.length = x.shape[1], call.channels = weight.shape[1], call.taps = weight.shape[2];
        call.directions = int64_t(reverse.size()), call.reverse = reverse.data(), call.silu = silu;
        call.x = (const char *)(x.as<float>() + first), call.x_l = x.last(), call.x_b = call.length * call.x_l;
        call.weight = weight.as<float>(), call.bias = run.in[BIAS].as<float>();
        call.out = run.output({call.directions, call.batch, call.length, call.channels});
        threads.compute(run, vimzoo_causal_conv1d_forward, call, vimzoo::nanoseconds(call));
    }
};

struct Depthwise {
    static constexpr const char *NAME = "Depthwise";
    enum Input { X, WEIGHT, BIAS, INPUTS, REQUIRED = BIAS };
    bool silu;
    int64_t first, dilation;
    Threads threads;

    static onnxruntime::Type type(size_t) { return onnxruntime::FLOAT; }
    explicit Depthwise(const Node &node)
        : silu(node.number("silu")), first(node.number("first")), dilation(node.number("dilation")) {}

    void run(const Run &run) {
        const auto &x = run.in[X];
        auto call = vimzoo::zeroed<depthwise_args>();
        call.batch = x.shape[0], call.height = x.shape[1], call.width = x.shape[2], call.channels = run.in[WEIGHT].shape[0];
        call.dilation = dilation, call.silu = silu, call.x = (const char *)(x.as<float>() + first);
        call.x_w = x.last(), call.x_h = call.width * call.x_w, call.x_b = call.height * call.x_h;
        call.weight = run.in[WEIGHT].as<float>(), call.bias = run.in[BIAS].as<float>();
        call.out = run.output({call.batch, call.height, call.width, call.channels});
        threads.compute(run, vimzoo_depthwise_forward, call, vimzoo::nanoseconds(call));
    }
};

struct Norm {
    static constexpr const char *NAME = "Norm";
    enum Input { X, WEIGHT, BIAS, GATE, INPUTS, REQUIRED = BIAS };
    double eps;
    int64_t first;
    Threads threads;

    static onnxruntime::Type type(size_t) { return onnxruntime::FLOAT; }
    explicit Norm(const Node &node) : eps(node.decimal("eps")), first(node.number("first")) {}

    void run(const Run &run) {
        const auto &x = run.in[X], &gate = run.in[GATE];
        auto call = vimzoo::zeroed<add_norm_args>();
        call.channels = x.last(), call.rows = call.channels ? x.size() / call.channels : 0, call.eps = eps;
        call.x = x.as<char>(), call.weight = run.in[WEIGHT].as<float>(), call.bias = run.in[BIAS].as<float>();
        if (gate) call.gate = (const char *)(gate.as<float>() + first), call.gate_row = gate.last();
        call.out = run.output(x.shape);
        threads.compute(run, vimzoo_add_norm_forward, call, vimzoo::nanoseconds(call));
    }
};

template <class Kernel> onnxruntime::Operator made() {
    using onnxruntime::Operator;
    Operator made;
    made.name = [](const Operator *) { return Kernel::NAME; };
    made.provider = [](const Operator *) -> const char * { return nullptr; }; /* the CPU's */
    made.inputs = [](const Operator *) -> size_t { return Kernel::INPUTS; };
    made.outputs = [](const Operator *) -> size_t { return 1; };
    made.input_type = [](const Operator *, size_t i) { return Kernel::type(i); };
    made.output_type = [](const Operator *, size_t) { return onnxruntime::FLOAT; };
    made.input_presence = [](const Operator *, size_t i) {
        return i < Kernel::REQUIRED ? onnxruntime::REQUIRED : onnxruntime::OPTIONAL;
    };
    made.output_presence = [](const Operator *, size_t) { return onnxruntime::REQUIRED; };
    made.input_memory = [](const Operator *, size_t) { return 0; };
    for (auto &count : made.variadic) count = [](const Operator *) { return 1; };
    made.create_safely = [](const Operator *, void *const *, const Object *info, void **kernel) {
        return guarded([&] { *kernel = new Kernel(Node{info}); });
    };
    made.compute_safely = [](void *kernel, Object *context) {
        return guarded([&] { static_cast<Kernel *>(kernel)->run(Run(context, Kernel::INPUTS)); });
    };
    made.destroy = [](void *kernel) { delete static_cast<Kernel *>(kernel); };
    return made;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) Status *RegisterCustomOps(
    Object *options, const onnxruntime::Base *base) {
    static const onnxruntime::Operator all[] = {made<ScanPaths>(), made<CausalConv1d>(), made<Depthwise>(), made<Norm>()};
    void *const *table = base->functions(onnxruntime::VERSION);
    if (!table) return nullptr; /* an older release, which runs the file's functions */
    api = onnxruntime::Functions(table);
    return guarded([&] {
        Object *domain; /* never released: sessions keep it */
        api(onnxruntime::CREATE_DOMAIN, "vimzoo", &domain);
        for (const auto &each : all) api(onnxruntime::ADD_TO_DOMAIN, domain, &each);
        api(onnxruntime::ADD_DOMAIN, options, domain);
    });
}
