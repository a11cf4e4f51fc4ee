// The CUDA kernels, all for f32. NVRTC compiles this file at run time for the GPU at hand, so no
// nvcc is needed where a program runs, and none of CUDA's headers are included.
//
// Matrices are row-major. Sums have a fixed order: the same input gives the same result.

typedef unsigned long long u64;

__device__ __forceinline__ float leaky_of(float x, float slope) { return x * (x > 0.f ? 1.f : slope); }

// The sum over a block of at most 1024 threads; the result is valid in thread 0.
__device__ __forceinline__ float block_sum(float x) {
    __shared__ float parts[32];
    for (int step = 16; step > 0; step >>= 1) x += __shfl_down_sync(0xffffffffu, x, step);
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    if (lane == 0) parts[warp] = x;
    __syncthreads();
    int warps = (blockDim.x + 31) >> 5;
    x = threadIdx.x < warps ? parts[threadIdx.x] : 0.f;
    if (warp == 0)
        for (int step = 16; step > 0; step >>= 1) x += __shfl_down_sync(0xffffffffu, x, step);
    __syncthreads();
    return x;
}

// ---------------------------------------------------------------- element-wise

extern "C" __global__ void leaky(const float* x, float* y, long long n, float slope) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = leaky_of(x[i], slope);
}

// g times the derivative of leaky ReLU, which depends on the sign of its result y.
extern "C" __global__ void slope(const float* y, const float* g, float* out, long long n, float slope) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = g[i] * (y[i] > 0.f ? 1.f : slope);
}

extern "C" __global__ void add_leaky(const float* a, const float* b, float* y, long long n, float slope) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = leaky_of(a[i] + b[i], slope);
}

// ---------------------------------------------------------------- dense layers

// h (nets, rows, n): adds the bias of its net to each row, then leaky ReLU. blockIdx.y is the net.
extern "C" __global__ void bias_leaky(float* h, const float* b0, const float* b1, int n, int rows, float slope) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (long long)rows * n) return;
    const float* b = blockIdx.y ? b1 : b0;
    float* at = h + (long long)blockIdx.y * rows * n + i;
    *at = leaky_of(*at + b[i % n], slope);
}

// d (nets, rows, n), the gradient after the activation, becomes that before it; h (nets, rows, n)
// are the results of the layer, or null without an activation. db (nets, n) gets the sum over rows.
// Blocks of 32 × 8 threads: 32 columns each. blockIdx.y is the net.
extern "C" __global__ void slope_bias(float* d, const float* h, float* db, int n, int rows, float slope) {
    __shared__ float parts[8][33];
    int column = blockIdx.x * 32 + threadIdx.x;
    float sum = 0.f;
    if (column < n) {
        long long base = (long long)blockIdx.y * rows * n + column;
        for (int r = threadIdx.y; r < rows; r += 8) {
            long long i = base + (long long)r * n;
            float v = d[i];
            if (h) {
                v *= h[i] > 0.f ? 1.f : slope;
                d[i] = v;
            }
            sum += v;
        }
    }
    parts[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < n) {
        float all = 0.f;
        for (int k = 0; k < 8; ++k) all += parts[k][threadIdx.x];
        db[(long long)blockIdx.y * n + column] = all;
    }
}

// ---------------------------------------------------------------- coupling

// The input of the nets: half of a row of x, then the condition, which `share` rows have in common.
extern "C" __global__ void seen_pack(const float* x, int ldx, int from, int half, const float* c, int cw,
                                     int share, float* out, int rows) {
    int width = half + cw;
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (long long)rows * width) return;
    int r = (int)(i / width), j = (int)(i % width);
    out[i] = j < half ? x[(long long)r * ldx + from + j] : c[(long long)(r / share) * cw + j - half];
}

// Applies a half-step to the columns from.. of x and writes columns to.. of y; one block per row.
// st (2, rows, m) has the results of the nets s and t without bias, and gets what the backward pass
// needs: s, and ∂y/∂s. way: 0 forward, 1 inverse, 2 inverse with the values of the forward pass.
extern "C" __global__ void couple(int way, float* st, const float* bs, const float* bt, const float* x, int ldx,
                                  int from, float* y, int ldy, int to, int m, int rows, float clamp,
                                  const float* logdet_in, int ld_in, float* logdet_out, int ld_out) {
    int r = blockIdx.x;
    float sum = 0.f;
    for (int j = threadIdx.x; j < m; j += blockDim.x) {
        long long i = (long long)r * m + j, it = (long long)rows * m + i;
        float s = clamp * tanhf((st[i] + bs[j]) / clamp);
        float t = st[it] + bt[j];
        float old = x[(long long)r * ldx + from + j], now, moved;
        if (way == 0) {
            moved = old * expf(s);
            now = moved + t;
        } else {
            moved = old - t;
            now = moved * expf(-s);
        }
        st[i] = s;
        st[it] = moved;
        y[(long long)r * ldy + to + j] = now;
        sum += s;
    }
    if (logdet_out) {
        sum = block_sum(sum);
        if (threadIdx.x == 0) {
            float before = logdet_in ? logdet_in[(long long)r * ld_in] : 0.f;
            logdet_out[(long long)r * ld_out] = before + sum;
        }
    }
}

// The gradients of a half-step: d (2, rows, m) of the nets' results before clamping, and of the
// changed half, which goes to columns to.. of `to_x`. `tail` is the column of the log-determinant's
// gradient, which is copied, or -1.
extern "C" __global__ void couple_backward(const float* g, int ldg, int from, const float* st, float* d, float* to_x,
                                           int ldx, int to, const float* logdet, int ldl, int m, int rows,
                                           float clamp, int tail) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (long long)rows * m) return;
    int r = (int)(i / m), j = (int)(i % m);
    float s = st[i], moved = st[(long long)rows * m + i];
    float grad = g[(long long)r * ldg + from + j], by = logdet[(long long)r * ldl], u = s / clamp;
    d[i] = (grad * moved + by) * (1.f - u * u);
    d[(long long)rows * m + i] = grad;
    to_x[(long long)r * ldx + to + j] = grad * expf(s);
    if (j == 0 && tail >= 0) to_x[(long long)r * ldx + tail] = by;
}

// Adds the gradients that both nets have for their input, dseen (2, rows, half + cw): those of the
// half to `base`, giving `out`; those of the condition to `to_c`.
extern "C" __global__ void seen_add(const float* base, int ldb, int bfrom, const float* dseen, float* out, int ldo,
                                    int ofrom, int half, float* to_c, int cw, int rows) {
    int width = half + cw;
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x, n = (long long)rows * width;
    if (i >= n) return;
    int r = (int)(i / width), j = (int)(i % width);
    float both = dseen[i] + dseen[n + i];
    if (j < half)
        out[(long long)r * ldo + ofrom + j] = base[(long long)r * ldb + bfrom + j] + both;
    else
        to_c[(long long)r * cw + j - half] += both;
}

// ---------------------------------------------------------------- other layers of a flow
// Rows are `ld` apart. With ld = n + 1 the last column is the log-determinant.

extern "C" __global__ void actnorm(const float* x, const float* loc, const float* scale, float* y, int n, int ld,
                                   int rows) {
    int r = blockIdx.x;
    const float* in = x + (long long)r * ld;
    float* out = y + (long long)r * ld;
    float sum = 0.f;
    for (int j = threadIdx.x; j < n; j += blockDim.x) {
        out[j] = (in[j] + loc[j]) * scale[j];
        if (ld > n) sum += logf(fabsf(scale[j]));
    }
    if (ld > n) {
        sum = block_sum(sum);
        if (threadIdx.x == 0) out[n] = in[n] + sum;
    }
}

extern "C" __global__ void actnorm_inverse(const float* v, const float* loc, const float* scale, float* x, int n,
                                           int rows) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < (long long)rows * n) x[i] = v[i] / scale[i % n] - loc[i % n];
}

// Gradients of `actnorm`: g and to_x are (rows, n + 1). Blocks of 32 × 8 threads: 32 columns each.
extern "C" __global__ void actnorm_backward(const float* x, const float* loc, const float* scale, const float* g,
                                            float* to_x, float* to_loc, float* to_scale, int n, int rows) {
    __shared__ float parts[3][8][33];
    int column = blockIdx.x * 32 + threadIdx.x, ld = n + 1;
    float of_g = 0.f, of_x = 0.f, of_logdet = 0.f;
    if (column <= n) {
        float by = column < n ? scale[column] : 1.f, shift = column < n ? loc[column] : 0.f;
        for (int r = threadIdx.y; r < rows; r += 8) {
            long long i = (long long)r * ld + column;
            float grad = g[i];
            to_x[i] = grad * by;
            of_g += grad;
            of_x += grad * (x[i] + shift);
            of_logdet += g[(long long)r * ld + n];
        }
    }
    parts[0][threadIdx.y][threadIdx.x] = of_g;
    parts[1][threadIdx.y][threadIdx.x] = of_x;
    parts[2][threadIdx.y][threadIdx.x] = of_logdet;
    __syncthreads();
    if (threadIdx.y == 0 && column < n) {
        float a = 0.f, b = 0.f, c = 0.f;
        for (int k = 0; k < 8; ++k) {
            a += parts[0][k][threadIdx.x];
            b += parts[1][k][threadIdx.x];
            c += parts[2][k][threadIdx.x];
        }
        to_loc[column] = a * scale[column];
        to_scale[column] = b + c / scale[column];
    }
}

// y[r][j] = x[r][order[j]]; columns from n on are copied.
extern "C" __global__ void permute(const float* x, const unsigned* order, float* y, int n, int ld, int rows) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (long long)rows * ld) return;
    int r = (int)(i / ld), j = (int)(i % ld);
    y[i] = x[(long long)r * ld + (j < n ? order[j] : j)];
}

// ---------------------------------------------------------------- channels of images

// y = leaky(x·a + b) with one a and b per channel of x (batch, channels, plane).
extern "C" __global__ void channel_affine(const float* x, const float* a, const float* b, float* y, int channels,
                                          int plane, long long n, float slope) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    int c = (int)(i / plane % channels);
    y[i] = leaky_of(x[i] * a[c] + b[c], slope);
}

// One block per channel: the gradients of x, a and b.
extern "C" __global__ void channel_affine_backward(const float* x, const float* a, const float* y, const float* g,
                                                   float* to_x, float* to_a, float* to_b, int batch, int channels,
                                                   int plane, float slope) {
    int c = blockIdx.x;
    float by = a[c], of_a = 0.f, of_b = 0.f;
    for (long long k = threadIdx.x; k < (long long)batch * plane; k += blockDim.x) {
        long long i = (k / plane * channels + c) * plane + k % plane;
        float grad = g[i] * (y[i] > 0.f ? 1.f : slope);
        to_x[i] = grad * by;
        of_a += grad * x[i];
        of_b += grad;
    }
    of_a = block_sum(of_a);
    of_b = block_sum(of_b);
    if (threadIdx.x == 0) {
        to_a[c] = of_a;
        to_b[c] = of_b;
    }
}

// ---------------------------------------------------------------- convolution
// cols (c·kh·kw, batch·oh·ow): one column per patch.

extern "C" __global__ void im2col(const float* x, float* cols, int batch, int c, int h, int w, int kh, int kw,
                                  int stride, int ph, int pw, int oh, int ow) {
    long long patches = (long long)batch * oh * ow, i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= patches * c * kh * kw) return;
    long long p = i % patches;
    int k = (int)(i / patches);
    int ox = (int)(p % ow), oy = (int)(p / ow % oh), b = (int)(p / ((long long)ow * oh));
    int dx = k % kw, dy = k / kw % kh, channel = k / (kw * kh);
    int sx = ox * stride + dx - pw, sy = oy * stride + dy - ph;
    bool inside = sx >= 0 && sx < w && sy >= 0 && sy < h;
    cols[i] = inside ? x[(((long long)b * c + channel) * h + sy) * w + sx] : 0.f;
}

// The adjoint: every pixel is the sum of its elements of `cols`. With a bias (or null), and leaky
// ReLU (slope 1: none).
extern "C" __global__ void col2im(const float* cols, float* x, int batch, int c, int h, int w, int kh, int kw,
                                  int stride, int ph, int pw, int oh, int ow, const float* bias, float slope) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (long long)batch * c * h * w) return;
    int px = (int)(i % w), py = (int)(i / w % h), channel = (int)(i / ((long long)w * h) % c);
    int b = (int)(i / ((long long)w * h * c));
    long long patches = (long long)batch * oh * ow;
    float sum = 0.f;
    for (int dy = (py + ph) % stride; dy < kh; dy += stride) {
        int oy = (py + ph - dy) / stride;
        if (py + ph < dy || oy >= oh) continue;
        for (int dx = (px + pw) % stride; dx < kw; dx += stride) {
            int ox = (px + pw - dx) / stride;
            if (px + pw < dx || ox >= ow) continue;
            sum += cols[((long long)(channel * kh + dy) * kw + dx) * patches + ((long long)b * oh + oy) * ow + ox];
        }
    }
    x[i] = leaky_of(sum + (bias ? bias[channel] : 0.f), slope);
}

// (c, batch·plane) to (batch, c, plane), with bias (or null) and leaky ReLU (slope 1: none).
extern "C" __global__ void channels_second(const float* y, const float* bias, float* out, int batch, int c, int plane,
                                           float slope) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (long long)batch * c * plane) return;
    int at = (int)(i % plane), channel = (int)(i / plane % c), b = (int)(i / ((long long)plane * c));
    float v = y[((long long)channel * batch + b) * plane + at] + (bias ? bias[channel] : 0.f);
    out[i] = leaky_of(v, slope);
}

// (batch, c, plane) to (c, batch·plane). With the results y of leaky ReLU (or null), the gradient x
// is first multiplied by the activation's derivative.
extern "C" __global__ void channels_first(const float* x, const float* y, float* out, int batch, int c, int plane,
                                          float slope) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (long long)batch * c * plane) return;
    int at = (int)(i % plane), b = (int)(i / plane % batch), channel = (int)(i / ((long long)plane * batch));
    long long from = ((long long)b * c + channel) * plane + at;
    out[i] = x[from] * (!y || y[from] > 0.f ? 1.f : slope);
}

// The sum of each channel of x (batch, c, plane), one block per channel. Rows of a matrix (c, n):
// batch 1, plane n.
extern "C" __global__ void channel_sum(const float* x, float* sum, int batch, int c, int plane) {
    float all = 0.f;
    for (long long k = threadIdx.x; k < (long long)batch * plane; k += blockDim.x)
        all += x[(k / plane * c + blockIdx.x) * plane + k % plane];
    all = block_sum(all);
    if (threadIdx.x == 0) sum[blockIdx.x] = all;
}

// ---------------------------------------------------------------- Adam
// table: for each parameter the addresses of value, gradient and both moments, the number of
// elements, and the step length and 1/√(bias correction) as two floats. Block i works on part
// chunks[2i + 1] of parameter chunks[2i].

#define CHUNK 16384

// The sum of squares of each part of the gradients.
extern "C" __global__ void squares(const u64* table, const unsigned* chunks, double* sums) {
    const u64* row = table + 6 * (u64)chunks[2 * blockIdx.x];
    long long from = (long long)chunks[2 * blockIdx.x + 1] * CHUNK, to = (long long)row[4];
    if (to > from + CHUNK) to = from + CHUNK;
    const float* g = (const float*)row[1];
    double sum = 0.;
    for (long long i = from + threadIdx.x; i < to; i += blockDim.x) sum += (double)g[i] * g[i];
    __shared__ double parts[256];
    parts[threadIdx.x] = sum;
    __syncthreads();
    for (int step = 128; step > 0; step >>= 1) {
        if (threadIdx.x < step) parts[threadIdx.x] += parts[threadIdx.x + step];
        __syncthreads();
    }
    if (threadIdx.x == 0) sums[blockIdx.x] = parts[0];
}

// total[0] gets the sum of all parts; total[1] becomes 1 if it was ever not finite.
extern "C" __global__ void sum_squares(const double* sums, int n, double* total) {
    __shared__ double parts[256];
    double sum = 0.;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += sums[i];
    parts[threadIdx.x] = sum;
    __syncthreads();
    for (int step = 128; step > 0; step >>= 1) {
        if (threadIdx.x < step) parts[threadIdx.x] += parts[threadIdx.x + step];
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        total[0] = parts[0];
        if (!isfinite(parts[0])) total[1] = 1.;
    }
}

// `total` is null without clipping. After a gradient that was not finite, no parameter changes.
extern "C" __global__ void adam(const u64* table, const unsigned* chunks, float beta1, float new1, float beta2,
                                float new2, float keep, float eps, float clip, const double* total) {
    float by = 1.f;
    if (total) {
        if (total[1] != 0.) return;
        double share = (double)clip / (sqrt(total[0]) + 1e-6);
        by = share < 1. ? (float)share : 1.f;
    }
    const u64* row = table + 6 * (u64)chunks[2 * blockIdx.x];
    long long from = (long long)chunks[2 * blockIdx.x + 1] * CHUNK, to = (long long)row[4];
    if (to > from + CHUNK) to = from + CHUNK;
    float *p = (float*)row[0], *m = (float*)row[2], *v = (float*)row[3];
    const float* g = (const float*)row[1];
    float step = __uint_as_float((unsigned)row[5]), root = __uint_as_float((unsigned)(row[5] >> 32));
    bool aligned = ((row[0] | row[1] | row[2] | row[3]) & 15) == 0;
    if (aligned && to - from == CHUNK) {
        const float4* g4 = (const float4*)(g + from);
        float4 *p4 = (float4*)(p + from), *m4 = (float4*)(m + from), *v4 = (float4*)(v + from);
        for (int i = threadIdx.x; i < CHUNK / 4; i += blockDim.x) {
            float4 a = g4[i], b = m4[i], c = v4[i], d = p4[i];
#define ONE(k)                                                         \
    {                                                                  \
        float grad = a.k * by;                                         \
        b.k = b.k * beta1 + grad * new1;                               \
        c.k = c.k * beta2 + grad * grad * new2;                        \
        d.k = d.k * keep - step * b.k / (sqrtf(c.k) * root + eps);     \
    }
            ONE(x) ONE(y) ONE(z) ONE(w)
            m4[i] = b;
            v4[i] = c;
            p4[i] = d;
        }
        return;
    }
    for (long long i = from + threadIdx.x; i < to; i += blockDim.x) {
        float grad = g[i] * by;
        m[i] = m[i] * beta1 + grad * new1;
        v[i] = v[i] * beta2 + grad * grad * new2;
        p[i] = p[i] * keep - step * m[i] / (sqrtf(v[i]) * root + eps);
    }
}
