"""A model made in one cell, its gradients taken in the next, trained in a third: every parameter gets its gradient."""

from session import Session

with Session() as k:
    k.open()
    k.run(
        """use invariances::candle_core::{DType, Device, Tensor};
use invariances::ops::Init;
let params = Params::new(1);
let w1 = params.root().pp("one").get((8, 2), "weight", Init::FanIn)?;
let b1 = params.root().pp("one").get(8, "bias", Init::Const(0.0))?;
let w2 = params.root().pp("two").get((1, 8), "weight", Init::FanIn)?;"""
    )
    # Types are inferred; the variables of the cells before are still there.
    assert k.run("params.names().len()").text == "3"
    k.run("let x = Rng::new(2).normal((64, 2), &Device::Cpu)?;\nlet y = x.sqr()?.sum_keepdim(1)?;")
    k.run(
        """fn loss(x: &Tensor, y: &Tensor, w1: &Tensor, b1: &Tensor, w2: &Tensor) -> Tensor {
    let run = || x.matmul(&w1.t()?)?.broadcast_add(b1)?.tanh()?.matmul(&w2.t()?)?.sub(y)?.sqr()?.mean_all();
    run().unwrap()
}
let gradients = loss(&x, &y, &w1, &b1, &w2).backward()?;"""
    )
    named = k.run(
        'params.trained().iter().map(|(name, var)| format!("{name}:{:?}", gradients.get(var).map(|g| g.dims().to_vec()))).collect::<Vec<_>>().join(" ")'
    ).text
    assert "None" not in named and named.count("Some") == 3, named
    before = float(k.run("loss(&x, &y, &w1, &b1, &w2).to_scalar::<f32>()?").text)
    k.run(
        """for _ in 0..200 {
    let gradients = loss(&x, &y, &w1, &b1, &w2).backward()?;
    for (_, var) in params.trained() {
        let step = (gradients.get(&var).unwrap() * 0.05)?;
        var.set(&(var.as_tensor() - step)?)?;
    }
}"""
    )
    after = float(k.run("loss(&x, &y, &w1, &b1, &w2).to_scalar::<f32>()?").text)
    print(f"loss {before:.3f}, after 200 steps {after:.3f}")
    assert after < 0.5 * before, (before, after)
    k.run('use invariances::polars::prelude::*;\nlet frame = df!("step" => [1, 2, 3], "loss" => [0.3, 0.2, 0.1])?;')
    assert "0.2" in k.run("frame").text
    k.run('let counts = std::collections::HashMap::from([("a", 1)]);\nlet count = counts.get("a").copied();')
    assert k.run("count").text == "Some(1)"
    k.run("1 + 1")
    assert any("matmul" in m for m in k.complete("x.matm")["matches"])
    k.settle()
