export const home: string;
export const buildFolder: string;
export const runner: string;
export function build(): void;
export function cudaTool(name: string): string | undefined;
export function nvcc(options: string[], sources: string[], extension: string): string;
export function compileToPtx(source: string, architecture?: string): string;
export function cubProgram(): string;
